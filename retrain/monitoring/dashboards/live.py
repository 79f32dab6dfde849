"""The dashboard *Live training* shows the active trainings, from the metrics that their processes serve."""

from retrain.monitoring.dashboards.panels import RUNBOOK, Json, dashboard, series, stat


def _of(metric: str, more: str = "") -> str:
    """Return the PromQL query of a metric of the chosen tasks' trainings."""
    return f'max by (task, method{more}) ({metric}{{task=~"$task"}})'


NOW = [
    stat(
        "Progress",
        "Iterations done, divided by the length of the schedule. A run that reaches its target stops before the end.",
        {"{{task}}": f"{_of('retrain_training_iteration')} / {_of('retrain_training_schedule_iterations')}"},
        "percentunit",
    ),
    stat(
        "Time to target",
        "Estimated time until the score reaches the target, from the rise of the score over the last evaluations. "
        "Never longer than the time until the schedule ends.",
        {"{{task}}": _of("retrain_training_eta_seconds")},
        "s",
    ),
    stat(
        "Images per second",
        "Images trained on per second. The time includes evaluation and saving.",
        {"{{task}}": 'sum by (task, method) (rate(retrain_training_images_total{task=~"$task"}[$__rate_interval]))'},
        "short",
    ),
]

CURVES = [
    series(
        "Score against target",
        "Score on the validation split at each evaluation, by the task's target.metric. The target is the score that "
        "ends the run.",
        {
            "{{task}} {{method}} {{metric}}": _of("retrain_training_score_ratio", ", metric"),
            "{{task}} target": _of("retrain_training_target_score_ratio"),
        },
        "percentunit",
    ),
    series(
        "Loss",
        "Mean loss on the validation split at each evaluation, and mean training loss since the previous evaluation.",
        {"{{task}} {{split}}": _of("retrain_training_loss", ", split")},
        "none",
    ),
    series(
        "Learning rate",
        "Learning rate at the newest evaluation.",
        {"{{task}}": _of("retrain_training_learning_rate")},
        "sci",
    ),
]

TIME = [
    series(
        "Images per second over time",
        "Images trained on per second. The time includes evaluation and saving.",
        {"{{task}}": 'sum by (task, method) (rate(retrain_training_images_total{task=~"$task"}[$__rate_interval]))'},
        "short",
        steps=False,
    ),
    series(
        "Share of time not spent on training steps",
        "Evaluation, saving of checkpoints, and data (reading, decoding, moving to the device), as shares of the "
        "training's duration.",
        {
            "{{task}} {{phase}}": f"{_of('retrain_training_aside_seconds_total', ', phase')} "
            f"/ on (task, method) group_left () {_of('retrain_training_seconds_total')}"
        },
        "percentunit",
        steps=False,
    ),
]

DASHBOARD: Json = dashboard(
    uid="retrain-live-training",
    title="Live training",
    description=f"Active trainings. Alerts and what to do: {RUNBOOK}.",
    tasks="retrain_training_iteration",
    rows={"Now": NOW, "Curves": CURVES, "Time": TIME},
    span="now-1h",
)
