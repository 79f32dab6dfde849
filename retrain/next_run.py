"""The next run of a task, from what its store holds. Read without torch: whoever only plans and submits stays small."""

from retrain import ledger, planning, registry
from retrain.config import Task
from retrain.data.drops import each_drop
from retrain.layout import Layout
from retrain.planning import History, Measured, Nothing, Request
from retrain.records import Plan, RunRecord
from retrain.run_records import RunRecords
from retrain.store.base import Store


def preview(store: Store, layout: Layout, task: Task, request: Request) -> Plan | Nothing:
    """Plan the next run and change nothing."""
    without_shards = [drop.model_copy(update={"shards": ()}) for drop in each_drop(store, layout)]  # they are many
    return planning.make_plan(task, without_shards, history(store, layout, task), request)


def check(plan: Plan, elsewhere: bool) -> None:
    """Build a plan's network, to see whether that can be done. Raises `ModelError`.

    A factory that is not installed here is left alone if the run is done `elsewhere`, from an image that may have it.
    """
    from retrain import models  # brings torch

    if models.is_installed(plan.task.model) or not elsewhere:
        models.check(plan.task.model, len(plan.dataset.classes), plan.task.data.image_size)


def history(store: Store, layout: Layout, task: Task) -> History:
    """Read what has been done: the ledger, the champion's plan, and the newest baseline of equal work."""
    records = ledger.read(store, layout)
    champion = registry.read(store, layout).run_id
    baselines = (_measured(store, layout, task, record) for record in reversed(records) if ledger.is_baseline(record))
    return History(
        records={record.run_id: record for record in records},
        champion=RunRecords(store, layout, champion).plan() if champion else None,
        baseline=next(filter(None, baselines), None),
    )


def _measured(store: Store, layout: Layout, task: Task, record: RunRecord) -> Measured | None:
    files = RunRecords(store, layout, record.run_id)
    if record.result is None or not planning.equal_work(task, files.plan().task):
        return None
    return Measured(record, record.result, files.curve())
