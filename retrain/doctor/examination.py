"""Examine a task: its store, this machine, and whether the next run could begin."""

from collections.abc import Iterator, Sequence
from functools import cache

from retrain.config.task import Task
from retrain.data.dataset import make_dataset
from retrain.doctor import Check, Finding
from retrain.doctor.machine import check_machine
from retrain.doctor.storage import check_storage
from retrain.errors import DamagedDrop
from retrain.models import factory
from retrain.models.pretrained import resolve_task
from retrain.pipeline import next_run
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.records import Drop
from retrain.store.task_store import TaskStore

FEWEST = 2
"""Classes that a network is tried with before any drop has landed."""

MODEL = "Set model.name and model.options in the task; a factory's module must be installed or on $PYTHONPATH."
CHAMPION = (
    "Put the object back from a copy of the store. Without one: if it is the model, `retrain rollback` puts the one "
    "before it in force; if it is champion.json, remove it and `retrain promote` a run that `retrain history` lists."
)
PLAN = "Put what it names back from a copy of the store; `retrain run --dry-run` then plans."


def examine(task: Task, store: TaskStore) -> Iterator[Finding]:
    """Yield findings about the task's store, this machine and the next run; the latter two need the store's drops.

    Drops with a damaged manifest are left out, with a warning: the next run puts them in quarantine and goes on.
    """
    drops = cache(store.drops.readable)
    usable = True
    for finding in check_storage(store, drops):
        usable = finding.state != "failed"
        yield finding
    if usable:
        yield from check_machine(task, store, drops())
        yield from check_readiness(task, store, drops())


def check_readiness(task: Task, store: TaskStore, drops: Sequence[Drop]) -> Iterator[Finding]:
    """Yield what there is to say of the next run; of its plan nothing if the champion, which it reads, is damaged."""
    checks = (
        (Check("model", lambda: _check_model(task, drops)), MODEL),
        (Check("champion", lambda: _check_champion(store)), CHAMPION),
        (Check("plan", lambda: _check_plan(task, store)), PLAN),
    )
    for check, mend in checks:
        finding = check.run()
        failed = finding.state == "failed"
        yield finding.model_copy(update={"mend": mend}) if failed else finding
        if failed and check.name == "champion":
            return


def _check_model(task: Task, drops: Sequence[Drop]) -> Finding | str:
    """Kubeflow's pods may have a factory that this machine lacks."""
    if task.kubeflow.host and not factory.is_installed(task.model):
        found = f"{task.model.name} is not installed here, and was not tried"
        return Finding(check="model", state="warning", found=found, mend="The image of --on kubeflow must have it.")
    task = resolve_task(task)
    factory.check_network(task.model, len(make_dataset(drops).classes) or FEWEST, task.data.image_size)
    frame = task.data.frame
    return f"{task.model.name} takes {frame.height}x{frame.width} images"


def _check_champion(store: TaskStore) -> str:
    run_id = store.champion.read().run_id
    if run_id is None:
        return "none yet"
    store.run(run_id).weights()
    return f"{run_id}, its model as the run ended with it"


def _check_plan(task: Task, store: TaskStore) -> Finding | str:
    try:
        planned = next_run.plan_next_run(store, task, Request())
    except DamagedDrop as damaged:
        mend = "None needed: the next run puts the drop in quarantine and goes on."
        return Finding(check="plan", state="warning", found=str(damaged), mend=mend)
    if isinstance(planned, NoRunNeeded):
        return f"nothing to do: {planned.reason}"
    return f"{planned.run_id}: {planned.reason}"
