"""Describe how to resume or remove the runs of a task that were started and have not ended. Imports no torch."""

from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import datetime

from retrain.config.loading import task_argument
from retrain.config.task import Task
from retrain.errors import RunError, StoreError, UserError
from retrain.pipeline import next_run
from retrain.pipeline.planning import Request
from retrain.pipeline.retention import LARGE
from retrain.records import Plan
from retrain.store.base import Missing
from retrain.store.lease import read_lease
from retrain.store.task_store import TaskStore


def describe_unfinished(
    task: Task, store: TaskStore, planned: object, started: Collection[str], now: datetime
) -> Iterator[str]:
    """Yield a sentence for each run in `started` that can be resumed, or whose files `retrain gc` removes later.

    `planned` is the plan of the next run, or another value if there is none. A run that cannot be resumed and has no
    large files is left out.
    """
    claims = store.claims()
    claims.refresh()
    watched = {plan.run_id for plan in claims.in_flight()}
    newest = _plan(task, store, Request(purpose="calibrate"), now)
    for run_id in sorted(started):
        with suppress(RunError):  # the run has no plan, or its plan is damaged
            plan, how = store.run(run_id).plan(), None
            state, effect = _describe_state(store, run_id)
            if isinstance(planned, Plan) and planned.run_id == run_id:
                how = f"`retrain run --task {task_argument(task.name)}` {effect}"
            elif run_id in watched:
                how = f"`retrain watch --task {task_argument(task.name)}` {effect}"
            elif newest and newest.dataset.digest == plan.dataset.digest:
                how = _find_command(task, store, plan, now, effect)
            if how or _has_large_files(store, run_id):
                yield f"{run_id} has not ended; {state}: {_advise(task, store, plan, how)}"


def _advise(task: Task, store: TaskStore, plan: Plan, how: str | None) -> str:
    with suppress(Missing):
        lease, _ = read_lease(store.objects, store.keys.lease)
        if lease.is_valid:
            return f"{lease.holder} is working on this task"
    if how:
        return f"{how}, unless it is running on Kubeflow" if task.kubeflow.host else how
    command = f"retrain gc --task {task_argument(task.name)}"
    later = " and later ones" if plan.purpose == "trial" else ""
    champion = f"a model trained on its drops{later}"
    return (
        "its drops, champion or settings are no longer the current ones, so no command resumes it; "
        f"`{command}` removes its checkpoints 90 days (--older-than) after the promotion of {champion}"
    )


def _describe_state(store: TaskStore, run_id: str) -> tuple[str, str]:
    """Return texts for the saved state of a run, and for the effect of a command that continues it."""
    resumes = "resumes it"
    if store.run(run_id).result():
        return "its training is complete, but it has no record yet", resumes
    with store.run(run_id).checkpoints() as checkpoints:
        iteration = checkpoints.iteration()
    if iteration:
        return f"its last checkpoint is of iteration {iteration:,}", resumes
    return "it has no checkpoint yet", "starts it again from the beginning"


def _has_large_files(store: TaskStore, run_id: str) -> bool:
    folder = f"{store.keys.runs}{run_id}/"
    return any(LARGE.fullmatch(entry.key.removeprefix(folder)) for entry in store.objects.list(folder))


def _find_command(task: Task, store: TaskStore, plan: Plan, now: datetime, effect: str) -> str | None:
    """Return a sentence with the command that makes the same plan, and its `effect`. None if no command makes it."""
    request = Request(plan.method, plan.purpose)
    if plan.purpose == "calibrate":
        request, command = Request(purpose="calibrate"), f"retrain baseline --task {task_argument(task.name)}"
    else:
        trial = " --trial" if plan.purpose == "trial" else ""
        command = f"retrain run --task {task_argument(task.name)} --method {plan.method}{trial}"
    if _makes(task, store, request, now, plan):
        return f"`{command}` {effect}"
    if _makes(plan.task, store, request, now, plan):
        settings = f"{store.url}/{store.keys.run(plan.run_id, 'plan.json')}"
        return f"with the settings of {settings} in the task file, `{command}` {effect}"
    return None


def _makes(task: Task, store: TaskStore, request: Request, now: datetime, plan: Plan) -> bool:
    planned = _plan(task, store, request, now)
    return planned is not None and planned.run_id == plan.run_id


def _plan(task: Task, store: TaskStore, request: Request, now: datetime) -> Plan | None:
    """Return the plan of a request. None if there is none. Raises `StoreError`."""
    try:
        planned = next_run.plan_next_run(store, task, request, now)
    except StoreError:
        raise
    except UserError:
        return None
    return planned if isinstance(planned, Plan) else None
