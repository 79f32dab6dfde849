"""What the page is made of: the ledger, and the few files of runs that it shows beyond it. Nothing here needs torch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np
from safetensors.numpy import load

from retrain.config.recipe import EasyHard
from retrain.errors import RunError
from retrain.monitoring.report.learning_speed import Index
from retrain.monitoring.report.speed_ups import newest_races
from retrain.records import Champion, Curve, Drop, Plan, RunRecord
from retrain.store.base import Missing
from retrain.store.task_store import TaskStore

PLANS = 20
"""Of so many of the newest runs the whole plan is read; of the others, the ledger has what decided them."""
READERS = 16

T = TypeVar("T")


@dataclass(frozen=True)
class Sources:
    """One task as it stands at `now`. `records` are oldest first; `curves` and `plans` are by run id."""

    task: str
    store: str
    now: datetime
    records: Sequence[RunRecord]
    drops: Sequence[Drop] = ()
    champion: Champion | None = None
    curves: Mapping[str, Curve] = field(default_factory=dict)
    plans: Mapping[str, Plan] = field(default_factory=dict)
    index: Index | None = None


def read_sources(store: TaskStore, records: Sequence[RunRecord]) -> Sources:
    """Read what the page shows of a task beyond its ledger's records, which are oldest first."""
    raced = {run_id for record, baseline in newest_races(records) for run_id in (record.run_id, baseline)}
    newest = [record.run_id for record in records[-PLANS:]]
    return Sources(
        task=store.task,
        store=store.url,
        now=datetime.now(UTC),
        records=records,
        drops=store.drops.readable(),
        champion=store.champion.read().champion,
        curves=_read_all(lambda run_id: store.run(run_id).curve(), raced),
        plans=_read_all(lambda run_id: store.run(run_id).plan(), newest),
        index=_newest_index(store, records),
    )


def _read_all(read: Callable[[str], T], names: Iterable[str]) -> dict[str, T]:
    """Read several things at once; those that are no longer in the store are left out."""
    found = {}

    def attempt(name: str) -> None:
        with suppress(Missing, RunError):
            found[name] = read(name)

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(attempt, names))
    return found


def _newest_index(store: TaskStore, records: Sequence[RunRecord]) -> Index | None:
    """The learning-speed index of the newest candidate that left one, if all of its files are there."""
    candidates = (r for r in reversed(records) if r.purpose == "retrain" and r.result and r.result.index_digest)
    run = next(candidates, None)
    if run is None:
        return None
    parts = _read_all(lambda drop: load(store.objects.read(store.keys.learning_speed(run.run_id, drop))[0]), run.drops)
    if len(parts) < len(run.drops):
        return None
    seen, correct, loss = (
        np.concatenate([parts[drop][name] for drop in run.drops]) for name in ("seen", "correct", "loss")
    )
    return Index(run.run_id, seen, correct, loss, EasyHard().share)
