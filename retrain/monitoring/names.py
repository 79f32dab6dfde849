"""Every metric, once, with its name, type, labels and meaning. docs/metrics.md is generated from this file.

A saving can be negative, but a Prometheus counter must never fall. Therefore the iterations of runs and the iterations
of scratch are counters, and their difference is a gauge. Labels contain no run's id, so the number of series does not
grow with the number of runs. The only exception is `retrain_champion_info`. It names a model, in one series for each
task. A metric has one unit, so the name of a metric in money contains the currency. Amounts of two currencies are never
added up.
"""

from typing import Literal, NamedTuple

Unit = Literal["iterations", "flops", "device_seconds", "energy_joules", "co2_grams", "cost"]
CURRENCY = "{currency}"
"""Placeholder in a name for the currency's ISO 4217 code in lower case."""


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
    "Iterations that the runs took. Runs that missed their target and calibrations are included.",
)
USED_ALL_IN = Name(
    "retrain_used_all_in_iterations_total",
    "counter",
    METHOD,
    "Iterations that the runs took, plus a third of an iteration for each evaluated batch.",
)

_WORDS: dict[Unit, str] = {
    "iterations": "Iterations",
    "flops": "Floating-point operations (iterations times each run's operations per iteration)",
    "device_seconds": "Seconds on a device (iterations times each run's seconds per iteration)",
    "energy_joules": "Energy (seconds on a device times costs.device_watts, or times the measured power)",
    "co2_grams": "Grams of CO2 (energy times costs.grams_co2_per_kwh)",
    "cost": "Cost (seconds on a device times costs.price_per_device_hour)",
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
            f"retrain_{name}_{_unit(unit)}", "gauge", METHOD, f"{words} saved compared with {against}. {charged}"
        )
        for unit, words in _WORDS.items()
    }


_SCRATCH, _WHOLE = "training from scratch up to its final accuracy (s_scratch)", "full trainings from scratch"
_GROSS, _NET = (
    "Evaluations and calibrations are not subtracted. The value can fall.",
    "Evaluations and calibrations are subtracted. The value can fall.",
)
BASELINE = _replaced(
    "baseline",
    "that scratch needs to reach its final accuracy (s_scratch), summed over the runs that are credited with a saving.",
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
    "Standard error of the saved iterations. It comes from runs on datasets for which s_scratch (the iterations of "
    "training from scratch up to its final accuracy) was estimated.",
)

_ALL_RUNS = "of all runs that ended with a result, including trials, evaluation and saving"
CONSUMED: dict[Unit, Name] = {
    "flops": Name("retrain_flops_total", "counter", METHOD, f"Floating-point operations {_ALL_RUNS}."),
    "device_seconds": Name("retrain_device_seconds_total", "counter", METHOD, f"Seconds on a device {_ALL_RUNS}."),
    "energy_joules": Name(
        "retrain_energy_joules_total",
        "counter",
        METHOD,
        f"Energy {_ALL_RUNS}. Absent if there is neither costs.device_watts nor a measurement.",
    ),
    "co2_grams": Name(
        "retrain_co2_grams_total",
        "counter",
        METHOD,
        f"Grams of CO2 {_ALL_RUNS}. Absent without costs.grams_co2_per_kwh.",
    ),
    "cost": Name(
        f"retrain_{_unit('cost')}_total",
        "counter",
        METHOD,
        f"Cost {_ALL_RUNS}. Absent without costs.price_per_device_hour.",
    ),
}

MEASURED_ENERGY = Name(
    "retrain_measured_energy_joules_total",
    "counter",
    METHOD,
    "Energy that NVML (GPUs) or RAPL (processors) measured in all runs on machines that support the measurement.",
)

ACCURACY = Name("retrain_accuracy_ratio", "gauge", TASK, "Accuracy of the newest run's model on the test split.")
SCORED = ("task", "metric")
"""Labels of a score: `metric` is the task's `target.metric`."""
SCORE = Name(
    "retrain_score_ratio",
    "gauge",
    (*SCORED, "split"),
    "Score of the newest run's model by the task's target.metric, on the validation split (val) and on the test split "
    "(test). The score on the validation split decided when the run ended.",
)
PART_SCORE = Name(
    "retrain_part_score_ratio",
    "gauge",
    (*SCORED, "part"),
    "Score of the newest run's model on the test samples of old drops (old) and of new drops (new). Old drops are "
    "those that its parent was trained on.",
)
VALIDATION_ACCURACY = Name(
    "retrain_validation_accuracy_ratio",
    "gauge",
    TASK,
    "Accuracy of the newest run's model on the validation split. This split decided when the run ended.",
)
TARGET_SCORE = Name(
    "retrain_target_score_ratio",
    "gauge",
    SCORED,
    "Score that the newest run had to reach on the validation split. If the target was carried over, only the "
    "validation samples of the baseline count. Absent for a run without a target.",
)
TARGET_ERROR = Name(
    "retrain_target_standard_error_ratio",
    "gauge",
    TASK,
    "Standard error of the newest run's target, due to the limited number of validation samples.",
)
TARGET_CARRIED = Name(
    "retrain_target_carried",
    "gauge",
    TASK,
    "1 if the newest run's target is carried over from a scratch run on fewer drops. 0 if the drops are the same.",
)
BASELINE_AGE = Name(
    "retrain_baseline_age_drops", "gauge", TASK, "Drops that the newest run was trained on and its baseline was not."
)
SPEED_UP = Name(
    "retrain_speed_up_ratio",
    "gauge",
    ("task", "level"),
    "L_99 and L_100 of the newest run: the baseline's iterations to its final score, divided by this run's iterations "
    "to 99 or 100 percent of that score. Absent if the run did not reach it, or if its target was carried over.",
)
TARGET_MET = Name(
    "retrain_target_met",
    "gauge",
    TASK,
    "1 if the newest retraining reached its target, else 0. A scratch run that follows a missed target also gives 0. "
    "Absent without a target.",
)
PROMOTED = Name("retrain_promoted", "gauge", TASK, "1 if the newest candidate was promoted, 0 if not.")
LAST_RUN = Name("retrain_last_run_timestamp_seconds", "gauge", TASK, "Time at which a retraining last ended.")
LAST_SUCCESS = Name(
    "retrain_last_success_timestamp_seconds", "gauge", TASK, "Time at which a retraining last ended with a promotion."
)
RECENT_RUNS = 5
RECENT_SAVED = Name(
    "retrain_recent_saved_net_iterations",
    "gauge",
    TASK,
    f"Net saving of the newest {RECENT_RUNS} runs together, in iterations. Absent until there are {RECENT_RUNS} runs.",
)

DROPS = Name(
    "retrain_drops",
    "gauge",
    ("task", "state"),
    "Drops by state: trained (by the champion), waiting (not yet), quarantined, and uploaded (not validated).",
)
DRIFTED = Name(
    "retrain_drifted_drops",
    "gauge",
    TASK,
    "Waiting drops whose images differ from the champion's held-out images (trigger.drift).",
)
OLDEST_WAITING = Name(
    "retrain_oldest_waiting_drop_timestamp_seconds",
    "gauge",
    TASK,
    "Time at which the oldest waiting drop was committed. Absent if no drop waits.",
)
CHAMPION = Name(
    "retrain_champion_info",
    "gauge",
    ("task", "method", "model"),
    "Always 1. The labels are the method that trained the champion, and the start of the SHA-256 of its weights.",
)
CHAMPION_SINCE = Name("retrain_champion_since_timestamp_seconds", "gauge", TASK, "Time of the champion's promotion.")
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
    "Time at which approval was requested for the candidate that has awaited it longest. Absent if no candidate awaits "
    "approval.",
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
    "The longest time between two scheduled runs. Absent without a schedule.",
)

DURATION_BOUNDS = (10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0, 86400.0)
RUN_DURATION = Name(
    "retrain_run_duration_seconds",
    "histogram",
    METHOD,
    "Time from the start of a run's training to its record, including any wait for approval.",
)
STAGE_DURATION = Name(
    "retrain_stage_duration_seconds",
    "histogram",
    ("task", "stage"),
    "Duration of the stages of a run. Only stages in the process that wrote the run's record are included. For a run "
    "on one machine, these are all stages.",
)

BUILD_INFO = Name("retrain_build_info", "gauge", ("version", "python"), "Always 1. The labels state the versions.")
STORE_REQUESTS = Name(
    "retrain_store_request_duration_seconds",
    "histogram",
    ("operation",),
    "Duration of requests to an object store, until the headers of the reply. Not measured for a folder.",
)

LEDGER_READ = Name(
    "retrain_ledger_read_timestamp_seconds", "gauge", TASK, "Time of the last complete read of the ledger. 0 if never."
)
LEDGER_ERRORS = Name("retrain_ledger_read_errors_total", "counter", TASK, "Failed reads of the ledger.")
LEDGER_RECORDS = Name("retrain_ledger_records", "gauge", TASK, "Records that the exporter has read.")

TRAINING_ITERATION = Name("retrain_training_iteration", "gauge", METHOD, "Iterations done.")
TRAINING_SCHEDULE = Name(
    "retrain_training_schedule_iterations", "gauge", METHOD, "Largest number of iterations that the run may take."
)
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
    "Newest mean loss on the validation split (val), and mean training loss since the previous evaluation (train).",
)
TRAINING_RATE = Name("retrain_training_learning_rate", "gauge", METHOD, "Learning rate at the newest evaluation.")
TRAINING_SECONDS = Name(
    "retrain_training_seconds_total", "counter", METHOD, "Duration of the training, including time before a resumption."
)
TRAINING_ASIDE = Name(
    "retrain_training_aside_seconds_total",
    "counter",
    (*METHOD, "phase"),
    "Part of retrain_training_seconds_total spent on evaluation, on saving state, and on data (reading, decoding, "
    "moving to the device).",
)
TRAINING_ETA = Name(
    "retrain_training_eta_seconds",
    "gauge",
    METHOD,
    "Estimated time until the target is reached, from the last evaluations. At most the time until the schedule ends.",
)

WATCHER_LAG = Name(
    "retrain_watcher_lag_seconds",
    "gauge",
    TASK,
    "Age of the oldest drop, amendment or erasure that waits for a run. 0 if none waits.",
)
WATCHER_IN_FLIGHT = Name(
    "retrain_watcher_runs_in_flight", "gauge", TASK, "Runs to which the watcher assigned drops and that have not ended."
)
WATCHER_TRIGGER = Name(
    "retrain_watcher_trigger_waits",
    "gauge",
    ("task", "condition"),
    "1 for each condition of the task's trigger that is not met and delays the next run, else 0.",
)
WATCHER_SUBMISSIONS = Name("retrain_watcher_submissions_total", "counter", TASK, "Runs that this watcher started.")
WATCHER_QUARANTINED = Name(
    "retrain_watcher_quarantined_drops_total", "counter", TASK, "Drops that this watcher put into quarantine."
)
WATCHER_ERRORS = Name(
    "retrain_watcher_errors_total",
    "counter",
    TASK,
    "Failed checks of a task, and failed starts of runs.",
)
WATCHER_QUEUE_ERRORS = Name(
    "retrain_watcher_queue_errors_total",
    "counter",
    (),
    "Messages that are not events, and failed requests to the queue.",
)
WATCHER_WEBHOOKS = Name(
    "retrain_watcher_webhooks_failing",
    "gauge",
    TASK,
    "Webhooks that did not confirm an event. The watcher sends it again.",
)

SERVED_MODEL = Name(
    "retrain_serving_model_info", "gauge", ("task", "model"), "Always 1. The labels name the model that is served."
)
SERVED_REQUESTS = Name("retrain_serving_requests_total", "counter", ("task", "code"), "Requests for predictions.")
SERVED_IMAGES = Name("retrain_serving_images_total", "counter", TASK, "Images that were predicted.")
SERVED_SECONDS = Name("retrain_serving_seconds_total", "counter", TASK, "Time that requests for predictions took.")
SERVED_ERRORS = Name(
    "retrain_serving_load_errors_total", "counter", TASK, "Failed attempts to read or load the champion."
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
    "The current state of a task": (
        *(DROPS, DRIFTED, OLDEST_WAITING, CHAMPION, CHAMPION_SINCE, CHAMPION_ACCURACY, CHAMPION_SCORE),
        *(AWAITING_APPROVAL, STORE_BYTES, SCHEDULE_PERIOD),
    ),
    "The exporter": (LEDGER_READ, LEDGER_ERRORS, LEDGER_RECORDS),
    "The watcher": (
        *(WATCHER_LAG, WATCHER_IN_FLIGHT, WATCHER_TRIGGER, WATCHER_SUBMISSIONS, WATCHER_QUARANTINED, WATCHER_ERRORS),
        *(WATCHER_QUEUE_ERRORS, WATCHER_WEBHOOKS),
    ),
    "`retrain serve`": (SERVED_MODEL, SERVED_REQUESTS, SERVED_IMAGES, SERVED_SECONDS, SERVED_ERRORS),
    "An active training": (
        *(TRAINING_ITERATION, TRAINING_SCHEDULE, TRAINING_IMAGES),
        *(TRAINING_ACCURACY, TRAINING_SCORE, TRAINING_TARGET),
        *(TRAINING_LOSS, TRAINING_RATE, TRAINING_SECONDS, TRAINING_ASIDE, TRAINING_ETA),
    ),
}
