"""How a task stands: its champion, its baseline, what waits and what was saved."""

from datetime import datetime

from retrain import ledger, registry
from retrain.config import Task
from retrain.data.drops import list_whole_drops
from retrain.data.quarantine import causes
from retrain.layout import Layout
from retrain.records import Record, RunRecord, Savings
from retrain.store.base import Store


class Status(Record):
    """One task, now. `waiting` are committed drops that the champion has not seen; `quarantined` says why, by drop."""

    task: str
    store: str
    champion: RunRecord | None
    champion_since: datetime | None
    baseline: RunRecord | None
    waiting: tuple[str, ...]
    quarantined: dict[str, str]
    runs: int
    savings: Savings


def read_status(task: Task, store: Store, layout: Layout) -> Status:
    """Read a task's status from its store."""
    records = ledger.read(store, layout)
    pointer = registry.read(store, layout).champion
    champion = next((record for record in records if pointer and record.run_id == pointer.run_id), None)
    known = champion.drops if champion else ()
    return Status(
        task=task.name,
        store=store.url,
        champion=champion,
        champion_since=pointer.history[-1].at if pointer else None,
        baseline=next((record for record in reversed(records) if ledger.is_baseline(record)), None),
        waiting=tuple(drop.id for drop in list_whole_drops(store, layout) if drop.id not in known),
        quarantined=causes(store, layout),
        runs=len(records),
        savings=ledger.total(records),
    )
