"""The dashboard *Compute savings* shows what continual retraining saved, and whether accuracy stayed the same."""

from retrain.monitoring.dashboards.panels import (
    BAD,
    DOUBTFUL,
    GOOD,
    RUNBOOK,
    SIGNED,
    Json,
    bars,
    dashboard,
    rising,
    series,
    stat,
    table,
)


def _of(metric: str, more: str = "") -> str:
    """Return the PromQL query of a metric of the chosen tasks, by task and `more` labels.

    If the exporter has several replicas, each series counts only once.
    """
    return f'max by (task{more}) ({metric}{{task=~"$task"}})'


def _sum(metric: str) -> str:
    return f"sum({_of(metric, ', method')})"


def _money(metric: str) -> str:
    """Return the PromQL query of a metric in money, summed by currency. The metric's name ends with the currency."""
    selected = f'{{__name__=~"{metric}_[a-z]{{3}}",task=~"$task"}}'
    named = (
        f'label_replace(max by (__name__, task, method) ({selected}), "currency", "$1", "__name__", ".*_([a-z]{{3}})")'
    )
    return f"sum by (currency) ({named})"


SAVED_NET, BASELINE = "retrain_saved_net_iterations", "retrain_baseline_iterations_total"
DAY = 86400

HOW_GROSS_NET = (
    "Iterations that training from scratch needs to reach its final accuracy (s_scratch), minus the iterations that "
    "the runs used. Runs that missed their target count, too. Gross savings subtract only training. Net savings also "
    "subtract evaluation (a third of an iteration for each batch) and calibrations (scratch runs that only measure "
    "the baseline). Whole is the net saving compared with full trainings from scratch."
)
AT_OWN_PACE = "Iterations are converted by the mean time of an iteration of the same run."

TOTALS = [
    stat(
        "Iterations saved",
        HOW_GROSS_NET,
        {
            "net": _sum(SAVED_NET),
            "gross": _sum("retrain_saved_gross_iterations"),
            "whole": _sum("retrain_saved_whole_net_iterations"),
        },
        "short",
        SIGNED,
    ),
    stat(
        "Share saved",
        "Iterations saved, net and gross, divided by the iterations that training from scratch would have taken.",
        {
            "net": f"{_sum(SAVED_NET)} / {_sum(BASELINE)}",
            "gross": f"{_sum('retrain_saved_gross_iterations')} / {_sum(BASELINE)}",
        },
        "percentunit",
        SIGNED,
    ),
    stat(
        "GPU-hours saved",
        f"Hours on the device that trained, a GPU or a CPU. {AT_OWN_PACE} {HOW_GROSS_NET}",
        {
            "net": f"{_sum('retrain_saved_net_device_seconds')} / 3600",
            "gross": f"{_sum('retrain_saved_gross_device_seconds')} / 3600",
            "whole": f"{_sum('retrain_saved_whole_net_device_seconds')} / 3600",
        },
        "h",
        SIGNED,
        decimals=1,
    ),
    stat(
        "Money saved",
        "By currency, at the price of a device-hour in the task file when the run ended. "
        f"{AT_OWN_PACE} {HOW_GROSS_NET}",
        {
            "net {{currency}}": _money("retrain_saved_net_cost"),
            "gross {{currency}}": _money("retrain_saved_gross_cost"),
            "whole {{currency}}": _money("retrain_saved_whole_net_cost"),
        },
        "none",
        SIGNED,
        decimals=2,
    ),
    stat(
        "Energy saved",
        "At the device's power in the task file when the run ended, or else at the measured power. "
        f"{AT_OWN_PACE} {HOW_GROSS_NET}",
        {
            "net": f"{_sum('retrain_saved_net_energy_joules')} / 3.6e6",
            "whole": f"{_sum('retrain_saved_whole_net_energy_joules')} / 3.6e6",
        },
        "kwatth",
        SIGNED,
        decimals=1,
    ),
    stat(
        "CO2 saved",
        f"The energy saved, at the carbon intensity in the task file when the run ended. {HOW_GROSS_NET}",
        {"net": _sum("retrain_saved_net_co2_grams"), "whole": _sum("retrain_saved_whole_net_co2_grams")},
        "massg",
        SIGNED,
        decimals=1,
    ),
]

COMPUTE = [
    series(
        "Iterations compared with scratch",
        "Cumulative iterations: of training from scratch on every dataset, of the runs, and of the runs with their "
        "evaluations. Calibrations count as used. The net saving is the distance by which the line with evaluations "
        "lies below the line of training from scratch.",
        {
            "always from scratch": _sum(BASELINE),
            "used": _sum("retrain_used_iterations_total"),
            "used, with evaluations": _sum("retrain_used_all_in_iterations_total"),
        },
        "short",
    ),
    bars(
        "Share saved by task",
        "Net iterations saved, divided by the iterations that training from scratch would have taken.",
        {"{{task}}": f"sum by (task) ({_of(SAVED_NET, ', method')}) / sum by (task) ({_of(BASELINE, ', method')})"},
        "percentunit",
        SIGNED,
    ),
    series(
        "GPU-hours used",
        "Cumulative hours on the device by method, including evaluation, loading of data, saving, and trials.",
        {"{{method}}": f"sum by (method) ({_of('retrain_device_seconds_total', ', method')}) / 3600"},
        "h",
    ),
]

QUALITY = [
    series(
        "Speed-up by run",
        "L_99 and L_100 of each run: the iterations after which the baseline reached its final accuracy, divided by "
        "the iterations after which this run reached 99 or 100 percent of that accuracy (Verwimp et al., eq. 2). A gap "
        "means that the run did not reach this percentage, or that its target was carried over from a scratch run on "
        "fewer drops.",
        {"{{task}} L_{{level}}": _of("retrain_speed_up_ratio", ", level")},
        "suffix:×",
    ),
    series(
        "Score against target",
        "Scores by the task's target.metric: each run's score on the validation split (val) and on the test split, its "
        "target on the validation split, and the champion's score on the test split. The validation split decides "
        "when a run ends. The test split influences no training.",
        {
            "{{task}} {{metric}} {{split}}": _of("retrain_score_ratio", ", metric, split"),
            "{{task}} target": _of("retrain_target_score_ratio"),
            "{{task}} champion, test": _of("retrain_champion_score_ratio"),
        },
        "percentunit",
    ),
    series(
        "Old against new data",
        "Each run's score on the test samples of old drops and of new drops. Its parent was trained on the old drops.",
        {"{{task}} {{part}}": _of("retrain_part_score_ratio", ", part")},
        "percentunit",
    ),
]

RUNS = [
    bars(
        "Outcomes",
        "Ended runs. reached: the run reached its target; plateau: it stopped improving below the target; missed: it "
        "used up its schedule or budget below the target; completed: it had no target; diverged: its loss was not "
        "finite; failed: it ended with an error.",
        {"{{outcome}}": f"sum by (outcome) ({_of('retrain_runs_total', ', method, purpose, outcome')})"},
        "short",
    ),
    bars(
        "Gate",
        "Candidates that the gate promoted or refused.",
        {"{{decision}}": f"sum by (decision) ({_of('retrain_gate_decisions_total', ', decision')})"},
        "short",
    ),
    bars(
        "Drops",
        "trained: the champion was trained on the drop; waiting: it was not; quarantined: the drop cannot be used; "
        "uploaded: no watcher has validated the upload.",
        {"{{state}}": f"sum by (state) ({_of('retrain_drops', ', state')})"},
        "short",
    ),
    bars(
        "Baseline's age",
        "Drops that the newest run was trained on and its baseline was not. The baseline is the scratch run from which "
        "targets and savings are computed.",
        {"{{task}}": _of("retrain_baseline_age_drops")},
        "short",
        rising((None, GOOD), (6, DOUBTFUL), (11, BAD)),
    ),
]

CHAMPIONS = [
    stat(
        "Champion's age",
        "Time since the champion was promoted.",
        {"{{task}}": f"time() - {_of('retrain_champion_since_timestamp_seconds')}"},
        "s",
    ),
    stat(
        "Since the last success",
        "Time since a retraining last ended with a promotion.",
        {"{{task}}": f"time() - {_of('retrain_last_success_timestamp_seconds')}"},
        "s",
        rising((None, GOOD), (14 * DAY, DOUBTFUL), (28 * DAY, BAD)),
    ),
    table(
        "Champions",
        "The champions, each with the method that trained it and the start of the SHA-256 of its weights.",
        _of("retrain_champion_info", ", method, model"),
    ),
]

DASHBOARD: Json = dashboard(
    uid="retrain-compute-savings",
    title="Compute savings",
    description="What continual retraining saved, and whether accuracy stayed the same. "
    f"Alerts and what to do: {RUNBOOK}.",
    tasks="retrain_runs_total",
    rows={
        "Saved so far": TOTALS,
        "Compute": COMPUTE,
        "Quality": QUALITY,
        "Runs": RUNS,
        "Champions": CHAMPIONS,
    },
    span="now-90d",
)
