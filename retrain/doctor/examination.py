"""Examine a task: its store, this machine, and whether the next run could begin."""

from collections.abc import Iterator, Sequence
from functools import cache

from retrain.config.task import Task
from retrain.data.dataset import make_dataset
from retrain.doctor import Check, Finding
from retrain.doctor.machine import check_machine
from retrain.doctor.storage import FILES, check_files, check_storage
from retrain.errors import DamagedDrop, ModelError
from retrain.models import factory
from retrain.models.pretrained import read_pretrained, resolve_task
from retrain.pipeline import next_run
from retrain.pipeline.evaluate import restore_network
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.records import Drop
from retrain.store.task_store import TaskStore

FEWEST = 2
"""Number of classes of the network that is built if no drop has landed yet."""

MODEL = "Set model.name, options and pretrained in the task; a factory's module must be installed or on $PYTHONPATH."
CHAMPION = (
    "Restore the object from a copy of the store. Without a copy: if it is the model, `retrain rollback` restores the "
    "previous champion; if it is champion.json, remove it and `retrain promote` a run that `retrain history` lists."
)
NEEDED = "The next run compares its model with the champion's model, so it needs both."
PLAN = "Restore the named object from a copy of the store, then check with `retrain run --dry-run`."


def examine(task: Task, store: TaskStore) -> Iterator[Finding]:
    """Yield findings about the store, this machine and the next run. If the store cannot be used, yield only
    findings about the store.

    A drop with a damaged manifest is skipped with a warning, because the next run quarantines it and continues.
    """
    drops = cache(store.drops.readable)
    usable = True
    for finding in check_storage(store, drops):
        usable = finding.state != "failed"
        yield finding
    if usable:
        yield Check(FILES, lambda: check_files(store, drops())).run()
        yield from check_machine(task, store, drops())
        yield from check_readiness(task, store, drops())


def check_readiness(task: Task, store: TaskStore, drops: Sequence[Drop]) -> Iterator[Finding]:
    """Yield findings about the next run. The plan needs model and champion, so it is skipped if one of them failed."""
    has_failed = False
    checks = (
        (Check("model", lambda: _check_model(task, store, drops)), MODEL),
        (Check("champion", lambda: _check_champion(task, store)), CHAMPION),
        (Check("plan", lambda: _check_plan(task, store)), PLAN),
    )
    for check, mend in checks:
        if check.name == "plan" and has_failed:
            return
        finding = check.run()
        if finding.state == "failed":
            has_failed, finding = True, finding.model_copy(update={"mend": finding.mend or mend})
        yield finding


def _check_model(task: Task, store: TaskStore, drops: Sequence[Drop]) -> Finding | str:
    """Check the model. A missing factory is only a warning, because the container image of Kubeflow's pods may have
    it.
    """
    if task.kubeflow.host and not factory.is_installed(task.model):
        found = f"{task.model.name} is not installed here, and was not tried"
        return Finding(
            check="model",
            state="warning",
            found=found,
            mend="Install its package in the container image, resources.image.",
        )
    task = resolve_task(task)
    classes = len(make_dataset(drops).classes) or FEWEST
    factory.check_network(task.model, classes, task.data.image_size, read_pretrained(store, task))
    frame = task.data.frame
    return f"{task.model.name} takes {frame.height}x{frame.width} images"


def _check_champion(task: Task, store: TaskStore) -> Finding | str:
    """Check that the champion's network can be built, and has its weights. A factory that only Kubeflow's pods have is
    not tried.
    """
    run_id = store.champion.read().run_id
    if run_id is None:
        return "none yet"
    files = store.run(run_id)
    plan = files.plan()
    if task.kubeflow.host and not factory.is_installed(plan.task.model):
        files.weights()
    else:
        try:
            restore_network(files, plan, task.allowed_factories)
        except ModelError as error:
            return Finding(check="champion", state="failed", found=str(error), mend=NEEDED)
    return f"{run_id}, its model unchanged since the run ended"


def _check_plan(task: Task, store: TaskStore) -> Finding | str:
    try:
        planned = next_run.plan_next_run(store, task, Request())
    except DamagedDrop as damaged:
        mend = "None needed: the next run quarantines the drop and continues."
        return Finding(check="plan", state="warning", found=str(damaged), mend=mend)
    if isinstance(planned, NoRunNeeded):
        return f"nothing to do: {planned.reason}"
    return f"{planned.run_id}: {planned.reason}"
