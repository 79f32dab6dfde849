"""Read the data of a task's page: the ledger, and the few files of runs that the page shows. Does not import torch."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np
from safetensors.numpy import load

from retrain.errors import RunError
from retrain.monitoring.report.learning_speed import Index
from retrain.monitoring.report.speed_ups import newest_with_targets
from retrain.pipeline.mistake_keys import name_mistakes
from retrain.records import Amendment, Approval, Champion, Curve, Drift, Drop, ErrorAnalysis, Plan, RunRecord
from retrain.records.ledger import is_baseline
from retrain.store.base import Missing
from retrain.store.task_store import TaskStore
from retrain.utils.parallel import map_ahead

PLANS = 20
"""Number of newest runs whose plans are read. The reasons of older runs are in the ledger."""
AMENDMENTS = 50
"""Number of newest amendments that the page lists."""

T = TypeVar("T")


@dataclass(frozen=True)
class ReportData:
    """The state of one task at the time `now`. `records` are oldest first. `curves` and `plans` are by run id."""

    task: str
    store: str
    now: datetime
    records: Sequence[RunRecord]
    drops: Sequence[Drop] = ()
    amendments: Sequence[Amendment] = ()
    """The newest amendments, oldest first."""
    champion: Champion | None = None
    awaiting: Sequence[Approval] = ()
    """Candidates that await approval."""
    drifts: Sequence[Drift] = ()
    """Waiting drops whose images differ from the champion's held-out images."""
    quarantined: Mapping[str, str] = field(default_factory=dict)
    """The cause of the quarantine by drop."""
    curves: Mapping[str, Curve] = field(default_factory=dict)
    plans: Mapping[str, Plan] = field(default_factory=dict)
    index: Index | None = None
    errors: ErrorAnalysis | None = None
    """The champion's errors on its test split."""

    def weaknesses(self) -> Iterator[tuple[str, str]]:
        """Yield the champion's weaknesses that its score hides (`Evaluation.weaknesses`)."""
        run_id = self.champion.run_id if self.champion else None
        champion = next((record for record in self.records if record.run_id == run_id), None)
        if champion and champion.evaluation:
            scratch = {record.dataset_digest for record in self.records if is_baseline(record)}
            yield from champion.evaluation.weaknesses(champion.dataset_digest in scratch)


def read_sources(store: TaskStore, records: Sequence[RunRecord]) -> ReportData:
    """Read the page's data of a task. `records` are the records of its ledger, oldest first."""
    compared = {run_id for record, baseline in newest_with_targets(records) for run_id in (record.run_id, baseline)}
    champion = store.champion.read().champion
    newest = [record.run_id for record in records[-PLANS:]]
    return ReportData(
        task=store.task,
        store=store.url,
        now=datetime.now(UTC),
        records=records,
        drops=store.drops.readable(),
        amendments=store.drops.amendments.read()[-AMENDMENTS:],
        champion=champion,
        awaiting=[one for one in store.approvals.unfinished() if one.verdict is None],
        drifts=_drifts(store, champion),
        quarantined=store.drops.quarantine_causes(),
        curves=_read_all(lambda run_id: store.run(run_id).curve(), compared),
        plans=_read_all(lambda run_id: store.run(run_id).plan(), newest),
        index=_champion_index(store, champion),
        errors=_champion_errors(store, champion),
    )


def _read_all(read: Callable[[str], T], names: Collection[str]) -> dict[str, T]:
    """Read several objects in parallel, and leave out the objects that are no longer in the store."""

    def read_or_none(name: str) -> T | None:
        with suppress(Missing, RunError):
            return read(name)
        return None

    found = zip(names, map_ahead(read_or_none, names), strict=True)
    return {name: value for name, value in found if value is not None}


def _drifts(store: TaskStore, champion: Champion | None) -> list[Drift]:
    return [one for one in store.drifts.of(champion.run_id if champion else None).values() if one.has_drifted]


def _champion_errors(store: TaskStore, champion: Champion | None) -> ErrorAnalysis | None:
    errors = store.run(champion.run_id).errors() if champion else None
    if champion is None or errors is None:
        return None
    return errors.model_copy(update={"mistakes": name_mistakes(errors.mistakes, champion.run_id, store)})


def _champion_index(store: TaskStore, champion: Champion | None) -> Index | None:
    """Return the learning-speed index that the next run samples with, or None if one of its files is missing."""
    if champion is None:
        return None
    run_id = champion.run_id
    try:
        plan = store.run(run_id).plan()
    except RunError:
        return None
    drops = [drop.id for drop in plan.dataset.drops]
    parts = _read_all(lambda drop: load(store.objects.read(store.keys.learning_speed(run_id, drop))[0]), drops)
    if len(parts) < len(drops):
        return None
    seen, correct, loss = (
        np.concatenate([parts[drop][name] for drop in drops]) for name in ("seen", "correct", "loss")
    )
    return Index(run_id, seen, correct, loss, plan.task.recipe.sampling)
