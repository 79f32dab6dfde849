"""Every metric, once: its name, type, labels and meaning. docs/metrics.md is generated from here.

A saving can be negative, but a Prometheus counter must never fall. Therefore the iterations used and those of scratch
are counters, and their difference is a gauge. No label holds a run's id, so the number of series does not grow with
the number of runs; only `retrain_champion_info` names a model, in one series a task. A metric has one unit, so a
currency is part of the name: amounts of two currencies are never added up.
"""

from typing import Literal, NamedTuple

Unit = Literal["iterations", "flops", "device_seconds", "energy_joules", "co2_grams", "cost"]
CURRENCY = "{currency}"
"""Stands in a name for the currency's ISO 4217 code in lower case."""


class Name(NamedTuple):
    """One metric as it is served."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


TASK, METHOD = ("task",), ("task", "method")

RUNS = Name("retrain_runs_total", "counter", ("task", "method", "purpose", "outcome"), "Ended runs.")
DECISIONS = Name("retrain_gate_decisions_total", "counter", ("task", "decision"), "Candidates promoted and refused.")
USED = Name(
    "retrain_used_iterations_total",
    "counter",
    METHOD,
    "Iterations that the runs took, missed attempts and calibrations included.",
)
USED_ALL_IN = Name(
    "retrain_used_all_in_iterations_total",
    "counter",
    METHOD,
    "Iterations that the runs took, evaluation charged at a third of an iteration a batch.",
)

_WORDS: dict[Unit, str] = {
    "iterations": "Iterations",
    "flops": "Floating-point operations (iterations at each run's cost)",
    "device_seconds": "Seconds on a device (iterations at each run's speed)",
    "energy_joules": "Energy (iterations at each run's speed and power: the task's figure, or else as measured)",
    "co2_grams": "Grams of CO2 (the energy at the task's carbon intensity)",
    "cost": "Money (iterations at each run's speed and the task's price)",
}


def _unit(unit: Unit) -> str:
    return f"cost_{CURRENCY}" if unit == "cost" else unit


def _replaced(name: str, what: str) -> dict[Unit, Name]:
    return {
        unit: Name(f"retrain_{name}_{_unit(unit)}_total", "counter", METHOD, f"{words} {what}")
        for unit, words in _WORDS.items()
    }


def _saved(name: str, against: str, charged: str) -> dict[Unit, Name]:
    return {
        unit: Name(
            f"retrain_{name}_{_unit(unit)}", "gauge", METHOD, f"{words} saved compared with {against}: {charged}"
        )
        for unit, words in _WORDS.items()
    }


_SCRATCH, _WHOLE = "s_scratch", "full trainings from scratch"
_GROSS, _NET = (
    "by training, without evaluations and calibrations. Can fall.",
    "after all costs, evaluations and calibrations included. Can fall.",
)
BASELINE = _replaced(
    "baseline", "of scratch to its own accuracy (s_scratch), summed over the runs that are credited with a saving."
)
WHOLE = _replaced("whole_scratch", "of the full trainings from scratch that the runs replaced.")
SAVED_GROSS = _saved("saved_gross", _SCRATCH, _GROSS)
SAVED_NET = _saved("saved_net", _SCRATCH, _NET)
SAVED_WHOLE_GROSS = _saved("saved_whole_gross", _WHOLE, _GROSS)
SAVED_WHOLE_NET = _saved("saved_whole_net", _WHOLE, _NET)
SAVED_ERROR = Name(
    "retrain_saved_standard_error_iterations",
    "gauge",
    METHOD,
    "Standard error of the iterations saved, from the estimates of s_scratch where it was not measured.",
)

_ALL_RUNS = "of all runs, trials included; evaluation and saving included"
CONSUMED: dict[Unit, Name] = {
    "flops": Name("retrain_flops_total", "counter", METHOD, f"Floating-point operations {_ALL_RUNS}."),
    "device_seconds": Name("retrain_device_seconds_total", "counter", METHOD, f"Seconds on a device {_ALL_RUNS}."),
    "energy_joules": Name(
        "retrain_energy_joules_total",
        "counter",
        METHOD,
        f"Energy {_ALL_RUNS}, if the task gives a power or it was measured.",
    ),
    "co2_grams": Name(
        "retrain_co2_grams_total", "counter", METHOD, f"Grams of CO2 {_ALL_RUNS}, if the task gives a carbon intensity."
    ),
    "cost": Name(f"retrain_{_unit('cost')}_total", "counter", METHOD, f"Money {_ALL_RUNS}, if the task gives a price."),
}

MEASURED_ENERGY = Name(
    "retrain_measured_energy_joules_total",
    "counter",
    METHOD,
    "Energy that NVML (GPUs) or RAPL (processors) measured in all runs on machines that have it.",
)

ACCURACY = Name("retrain_accuracy_ratio", "gauge", TASK, "Accuracy of the newest run's model on the test split.")
SCORED = ("task", "metric")
"""Labels of a score: `metric` is the task's `target.metric`."""
SCORE = Name(
    "retrain_score_ratio",
    "gauge",
    (*SCORED, "split"),
    "Score of the newest run's model by the task's target.metric, on the validation split (val), which it was stopped "
    "on, and on the test split (test).",
)
PART_SCORE = Name(
    "retrain_part_score_ratio",
    "gauge",
    (*SCORED, "part"),
    "Score of the newest run's model on the test samples of old drops, which its parent knew, and of new ones.",
)
VALIDATION_ACCURACY = Name(
    "retrain_validation_accuracy_ratio",
    "gauge",
    TASK,
    "Accuracy of the newest run's model on the validation split, which it was stopped on.",
)
TARGET_SCORE = Name(
    "retrain_target_score_ratio",
    "gauge",
    SCORED,
    "Score that the newest run had to reach on the validation split (of a target carried over: on the baseline's "
    "samples); absent for a run without a target.",
)
TARGET_ERROR = Name(
    "retrain_target_standard_error_ratio",
    "gauge",
    TASK,
    "Standard error of the score that the newest run's target comes from, by its validation samples.",
)
TARGET_CARRIED = Name(
    "retrain_target_carried",
    "gauge",
    TASK,
    "1 if the newest run's target is carried from a scratch run on fewer drops, 0 if it was measured on the same ones.",
)
BASELINE_AGE = Name(
    "retrain_baseline_age_drops",
    "gauge",
    TASK,
    "Drops that had landed since the baseline of the newest run was measured.",
)
SPEED_UP = Name(
    "retrain_speed_up_ratio",
    "gauge",
    ("task", "level"),
    "L_99 and L_100 of the newest run: what the baseline took to its score over what this run took to 99 or 100 "
    "percent of it; absent where it missed, or its target was carried over from earlier drops.",
)
TARGET_MET = Name(
    "retrain_target_met",
    "gauge",
    TASK,
    "1 if the newest retraining ended as reached, 0 if otherwise (a plateau, a miss, or scratch after a miss); absent "
    "if it had no target.",
)
PROMOTED = Name("retrain_promoted", "gauge", TASK, "1 if the newest retraining was promoted, 0 if it was not.")
LAST_RUN = Name("retrain_last_run_timestamp_seconds", "gauge", TASK, "When a retraining last ended.")
LAST_SUCCESS = Name(
    "retrain_last_success_timestamp_seconds", "gauge", TASK, "When a retraining last ended with a promotion."
)
RECENT_RUNS = 5
RECENT_SAVED = Name(
    "retrain_recent_saved_net_iterations",
    "gauge",
    TASK,
    f"Iterations saved net by the newest {RECENT_RUNS} runs together; absent before that number of runs.",
)

DROPS = Name(
    "retrain_drops",
    "gauge",
    ("task", "state"),
    "Drops that the champion has seen (trained), that it has not (waiting), and that were refused (quarantined).",
)
DRIFTED = Name(
    "retrain_drifted_drops",
    "gauge",
    TASK,
    "Waiting drops whose images differ from those that the champion was tested on (trigger.drift).",
)
OLDEST_WAITING = Name(
    "retrain_oldest_waiting_drop_timestamp_seconds",
    "gauge",
    TASK,
    "When the oldest drop was committed that the champion has not seen; absent if none waits.",
)
CHAMPION = Name(
    "retrain_champion_info",
    "gauge",
    ("task", "method", "model"),
    "1, for the champion's model: the method that trained it and the start of its weights' SHA-256.",
)
CHAMPION_SINCE = Name("retrain_champion_since_timestamp_seconds", "gauge", TASK, "When the champion was promoted.")
CHAMPION_ACCURACY = Name(
    "retrain_champion_accuracy_ratio", "gauge", TASK, "Accuracy of the champion on its test split."
)
CHAMPION_SCORE = Name(
    "retrain_champion_score_ratio", "gauge", SCORED, "Score of the champion on its test split, by target.metric."
)
AWAITING_APPROVAL = Name(
    "retrain_awaiting_approval_timestamp_seconds",
    "gauge",
    TASK,
    "Since when the oldest candidate has awaited approval; absent if none does.",
)
STORE_BYTES = Name(
    "retrain_store_bytes",
    "gauge",
    ("task", "kind"),
    "Size of the task's objects in its store, by kind: drops, models (with kept optimizer states), states (of "
    "unfinished runs), learning_speed (counters of ended runs) and records. Measured hourly.",
)
SCHEDULE_PERIOD = Name(
    "retrain_schedule_period_seconds",
    "gauge",
    TASK,
    "The longest time between two scheduled runs; absent without a schedule.",
)

DURATION_BOUNDS = (10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0, 86400.0)
RUN_DURATION = Name(
    "retrain_run_duration_seconds", "histogram", METHOD, "Time from the start of a run's training to its record."
)
STAGE_DURATION = Name(
    "retrain_stage_duration_seconds",
    "histogram",
    ("task", "stage"),
    "Time that a stage of a run took in the process that wrote the record: all of them where one process runs them.",
)

BUILD_INFO = Name("retrain_build_info", "gauge", ("version", "python"), "1, for the version of retrain and of Python.")
STORE_REQUESTS = Name(
    "retrain_store_request_duration_seconds",
    "histogram",
    ("operation",),
    "Time of this process's requests to an object store until the head of the reply; none where the store is a folder.",
)

LEDGER_READ = Name(
    "retrain_ledger_read_timestamp_seconds", "gauge", TASK, "When the exporter last read the whole ledger; 0 if never."
)
LEDGER_ERRORS = Name("retrain_ledger_read_errors_total", "counter", TASK, "Times that the ledger could not be read.")
LEDGER_RECORDS = Name("retrain_ledger_records", "gauge", TASK, "Records that the exporter has read.")

TRAINING_ITERATION = Name("retrain_training_iteration", "gauge", METHOD, "Iterations done.")
TRAINING_SCHEDULE = Name("retrain_training_schedule_iterations", "gauge", METHOD, "Most iterations of the run.")
TRAINING_IMAGES = Name("retrain_training_images_total", "counter", METHOD, "Images trained on.")
TRAINING_ACCURACY = Name("retrain_training_accuracy_ratio", "gauge", METHOD, "Newest accuracy on the validation split.")
TRAINING_SCORE = Name(
    "retrain_training_score_ratio",
    "gauge",
    (*METHOD, "metric"),
    "Newest score on the validation split, by the task's target.metric.",
)
TRAINING_TARGET = Name(
    "retrain_training_target_score_ratio",
    "gauge",
    (*METHOD, "metric"),
    "Score that the training must reach, on the baseline's validation samples if the target is carried over.",
)
TRAINING_LOSS = Name(
    "retrain_training_loss",
    "gauge",
    (*METHOD, "split"),
    "Newest mean loss on the validation split (val), and of training since the evaluation before (train).",
)
TRAINING_RATE = Name("retrain_training_learning_rate", "gauge", METHOD, "Learning rate at the newest evaluation.")
TRAINING_SECONDS = Name("retrain_training_seconds_total", "counter", METHOD, "Time spent, everything included.")
TRAINING_ASIDE = Name(
    "retrain_training_aside_seconds_total",
    "counter",
    (*METHOD, "phase"),
    "The part of it spent on evaluation, on saving state, and on data (reading, decoding, moving to the device).",
)
TRAINING_ETA = Name(
    "retrain_training_eta_seconds",
    "gauge",
    METHOD,
    "Estimated time to the target, by the score's rise over the last evaluations, at most to the schedule's end.",
)

WATCHER_LAG = Name(
    "retrain_watcher_lag_seconds",
    "gauge",
    TASK,
    "Time since the oldest drop or amendment landed that waits to be given to a run; 0 if none waits.",
)
WATCHER_IN_FLIGHT = Name("retrain_watcher_runs_in_flight", "gauge", TASK, "Runs that have drops and have not ended.")
WATCHER_TRIGGER = Name(
    "retrain_watcher_trigger_waits",
    "gauge",
    ("task", "condition"),
    "1 for each condition of the task's trigger that keeps the waiting drops from starting a run, else 0.",
)
WATCHER_SUBMISSIONS = Name("retrain_watcher_submissions_total", "counter", TASK, "Runs that this watcher started.")
WATCHER_QUARANTINED = Name(
    "retrain_watcher_quarantined_drops_total", "counter", TASK, "Drops that this watcher put into quarantine."
)
WATCHER_ERRORS = Name(
    "retrain_watcher_errors_total", "counter", TASK, "Times that a task could not be checked, or a run not be started."
)
WATCHER_QUEUE_ERRORS = Name(
    "retrain_watcher_queue_errors_total",
    "counter",
    (),
    "Messages that are no events, and failed requests to the queue.",
)

SERVED_MODEL = Name("retrain_serving_model_info", "gauge", ("task", "model"), "The model that is served: always 1.")
SERVED_REQUESTS = Name("retrain_serving_requests_total", "counter", ("task", "code"), "Requests for predictions.")
SERVED_IMAGES = Name("retrain_serving_images_total", "counter", TASK, "Images that were predicted.")
SERVED_SECONDS = Name("retrain_serving_seconds_total", "counter", TASK, "Time that requests for predictions took.")
SERVED_ERRORS = Name(
    "retrain_serving_load_errors_total", "counter", TASK, "Times that the champion could not be read or loaded."
)

GROUPS: dict[str, tuple[Name, ...]] = {
    "Every process": (BUILD_INFO, STORE_REQUESTS),
    "Work and savings, from the ledger": (
        *(RUNS, DECISIONS, USED, USED_ALL_IN),
        SAVED_ERROR,
        *(name for names in (BASELINE, SAVED_GROSS, SAVED_NET) for name in names.values()),
        *(name for names in (WHOLE, SAVED_WHOLE_GROSS, SAVED_WHOLE_NET) for name in names.values()),
        *CONSUMED.values(),
        MEASURED_ENERGY,
        *(RUN_DURATION, STAGE_DURATION),
    ),
    "The newest run, from the ledger": (
        *(ACCURACY, VALIDATION_ACCURACY, SCORE, PART_SCORE, TARGET_SCORE, TARGET_ERROR, TARGET_CARRIED),
        *(BASELINE_AGE, SPEED_UP),
        *(TARGET_MET, PROMOTED, LAST_RUN, LAST_SUCCESS, RECENT_SAVED),
    ),
    "The task now": (
        *(DROPS, DRIFTED, OLDEST_WAITING, CHAMPION, CHAMPION_SINCE, CHAMPION_ACCURACY, CHAMPION_SCORE),
        *(AWAITING_APPROVAL, STORE_BYTES, SCHEDULE_PERIOD),
    ),
    "The exporter": (LEDGER_READ, LEDGER_ERRORS, LEDGER_RECORDS),
    "The watcher": (
        *(WATCHER_LAG, WATCHER_IN_FLIGHT, WATCHER_TRIGGER, WATCHER_SUBMISSIONS, WATCHER_QUARANTINED, WATCHER_ERRORS),
        WATCHER_QUEUE_ERRORS,
    ),
    "`retrain serve`": (SERVED_MODEL, SERVED_REQUESTS, SERVED_IMAGES, SERVED_SECONDS, SERVED_ERRORS),
    "A training while it runs": (
        *(TRAINING_ITERATION, TRAINING_SCHEDULE, TRAINING_IMAGES),
        *(TRAINING_ACCURACY, TRAINING_SCORE, TRAINING_TARGET),
        *(TRAINING_LOSS, TRAINING_RATE, TRAINING_SECONDS, TRAINING_ASIDE, TRAINING_ETA),
    ),
}
