"""Check that a task's trackers accept exports from this machine.

This file imports no torch: `retrain run --dry-run` must not need it.
"""

from collections.abc import Callable, Iterator

from retrain.config.task import Task
from retrain.doctor import Check, Finding

ADVICE = "Runs do not depend on this tracker. The next run, or `retrain track`, exports the missing runs."


def check_trackers(task: Task) -> Iterator[Finding]:
    """Yield a finding about each of the task's trackers. A failure counts as a warning: no run depends on a tracker."""
    for name, probe in _probes(task).items():
        finding = Check(name, probe).run()
        yield finding if finding.state == "ok" else finding.model_copy(update={"state": "warning", "mend": ADVICE})


def _probes(task: Task) -> dict[str, Callable[[], str]]:
    """Return functions that send a request to the task's trackers, by the trackers' names.

    Each function returns a description of the server that answered. It takes a few seconds at most, and changes
    nothing. It raises `UserError` if no export is possible.
    """
    probes: dict[str, Callable[[], str]] = {}
    if task.tracking.mlflow:
        probes["MLflow"] = lambda: _probe_mlflow(task)
    if task.tracking.model_registry:
        probes["Model Registry"] = lambda: _probe_registry(task)
    return probes


def _probe_mlflow(task: Task) -> str:
    from retrain.tracking.mlflow_connection import probe_mlflow

    return probe_mlflow(task.name)


def _probe_registry(task: Task) -> str:
    from retrain.tracking.model_registry import probe_registry

    return probe_registry(task.name)
