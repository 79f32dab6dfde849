"""How a task stands beside its ledger's sums: which drops wait, and which model is in force."""

from collections.abc import Iterator

from retrain import ledger, registry
from retrain.data.drops import read_drop
from retrain.layout import Layout
from retrain.observe import names
from retrain.observe.metrics import Values
from retrain.observe.names import Name
from retrain.records import Promotion, RunRecord
from retrain.store.base import Store
from retrain.trigger.landing import Landed, scan

MODEL_DIGITS = 12
"""Of the weights' SHA-256: enough to tell models apart, as run ids do."""


class TaskState:
    """One task's drops and champion as they were when last looked at; a manifest is read once."""

    def __init__(self, store: Store, layout: Layout) -> None:
        self._store, self._layout = store, layout
        self._committed: dict[str, float] = {}
        self._landed = Landed()
        self._promotion: Promotion | None = None
        self._champion: RunRecord | None = None

    def refresh(self) -> None:
        """Look again. Raises `StoreError`, and `DropError` at a damaged manifest."""
        landed = scan(self._store, self._layout)
        for drop in landed.waiting - self._committed.keys():
            self._committed[drop] = read_drop(self._store, self._layout, drop).committed_at.timestamp()
        self._landed = landed
        champion = registry.read(self._store, self._layout).champion
        if champion and (self._champion is None or self._champion.run_id != champion.run_id):
            self._champion = ledger.find(self._store, self._layout, champion.run_id)
        self._promotion = champion.history[-1] if champion else None

    def figures(self) -> Iterator[tuple[Name, Values]]:
        """Yield what there is to tell, under the labels of this task."""
        task = self._layout.task
        trained = set(self._champion.drops) if self._champion else set()
        waiting = self._landed.waiting - trained
        states = {"trained": trained, "waiting": waiting, "quarantined": self._landed.quarantined}
        yield names.DROPS, [((task, state), len(drops)) for state, drops in states.items()]
        if waiting:
            yield names.OLDEST_WAITING, [((task,), min(self._committed[drop] for drop in waiting))]
        if self._promotion:
            yield names.CHAMPION_SINCE, [((task,), self._promotion.at.timestamp())]
        if self._champion:
            yield from _champion(self._champion)


def _champion(record: RunRecord) -> Iterator[tuple[Name, Values]]:
    digest = record.result.model_digest if record.result else None
    yield names.CHAMPION, [((record.task, record.method, (digest or "")[:MODEL_DIGITS]), 1)]
    if record.evaluation:
        yield names.CHAMPION_ACCURACY, [((record.task,), record.evaluation.accuracy)]
