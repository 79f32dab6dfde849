"""Read ledgers and the current state of tasks, and serve them as Prometheus metrics."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from retrain.config.cron import longest_gap
from retrain.errors import StoreError, UserError
from retrain.monitoring import names
from retrain.monitoring.metrics import Totals, Values, family
from retrain.monitoring.names import Name
from retrain.pipeline.retention import measure_bytes
from retrain.records import Approval, Promotion, RunRecord
from retrain.store import missing_folder
from retrain.store.drops import DropStates
from retrain.store.task_store import TaskStore
from retrain.utils.clock import Clock, utc_now
from retrain.utils.parallel import READERS, map_ahead

log = logging.getLogger("retrain")


class LedgerReader:
    """Reads every record of one task's ledger once."""

    def __init__(self, store: TaskStore) -> None:
        self._store = store
        self._read: set[str] = set()
        self.errors = 0
        """Number of failed reads of the ledger or of one of its records."""

    def __len__(self) -> int:
        """Return the number of records that were read."""
        return len(self._read)

    def new(self) -> Iterator[RunRecord]:
        """Yield the records that were not yielded before, in the order of their ids.

        If a record cannot be read, the error is logged and counted, and the next call tries again. Raises `StoreError`
        if the ledger cannot be listed.
        """
        try:
            run_ids = self._store.ledger.run_ids() - self._read
        except StoreError:
            self.errors += 1
            raise
        for record in map_ahead(self._find, sorted(run_ids)):
            if record:
                self._read.add(record.run_id)
                yield record

    def _find(self, run_id: str) -> RunRecord | None:
        try:
            return self._store.ledger.find(run_id)
        except StoreError as error:
            log.warning("%s", error)
            self.errors += 1
            return None


MODEL_DIGITS = 12
"""Number of hexadecimal digits of the weights' SHA-256 in a label. They are enough to distinguish models."""


class TaskState:
    """One task's drops and champion at the last refresh. Each manifest is read once."""

    def __init__(self, store: TaskStore) -> None:
        self._store = store
        self._committed: dict[str, float] = {}
        self._landed = DropStates()
        self._promotion: Promotion | None = None
        self._champion: RunRecord | None = None
        self._awaiting: Sequence[Approval] = ()
        self._drifted: frozenset[str] = frozenset()

    def refresh(self) -> None:
        """Read the drops and the champion again. Raises `StoreError`, or `DropError` for a damaged manifest."""
        landed = self._store.drops.scan()
        for drop in map_ahead(self._store.drops.read_manifest, sorted(landed.waiting - self._committed.keys())):
            self._committed[drop.id] = min(drop.committed_at.timestamp(), time.time())  # a clock may be ahead
        self._landed = landed
        champion = self._store.champion.read().champion
        if champion and (self._champion is None or self._champion.run_id != champion.run_id):
            self._champion = self._store.ledger.find(champion.run_id)
        drifts = self._store.drifts.of(champion.run_id if champion else None)
        self._drifted = frozenset(drift.drop for drift in drifts.values() if drift.has_drifted)
        self._promotion = champion.history[-1] if champion else None
        self._awaiting = [one for one in self._store.approvals.unfinished() if one.verdict is None]

    def metrics(self) -> Iterator[tuple[Name, Values]]:
        """Yield the metrics of this state with their values, labelled with the task."""
        task = self._store.task
        trained = set(self._champion.drops) if self._champion else set()
        waiting = self._landed.waiting - trained
        landed = self._landed
        states = {
            "trained": trained,
            "waiting": waiting,
            "quarantined": landed.quarantined,
            "uploaded": landed.unvalidated,
        }
        yield names.DROPS, [((task, state), len(drops)) for state, drops in states.items()]
        yield names.DRIFTED, [((task,), len(waiting & self._drifted))]
        if waiting:
            yield names.OLDEST_WAITING, [((task,), min(self._committed[drop] for drop in waiting))]
        if self._awaiting:
            yield names.AWAITING_APPROVAL, [((task,), self._awaiting[0].requested_at.timestamp())]
        if self._promotion:
            yield names.CHAMPION_SINCE, [((task,), self._promotion.at.timestamp())]
        if self._champion:
            yield from _champion(self._champion)


def _champion(record: RunRecord) -> Iterator[tuple[Name, Values]]:
    digest = record.result.model_digest if record.result else None
    yield names.CHAMPION, [((record.task, record.method, (digest or "")[:MODEL_DIGITS]), 1)]
    if record.evaluation:
        yield names.CHAMPION_ACCURACY, [((record.task,), record.evaluation.accuracy)]
        yield names.CHAMPION_SCORE, [((record.task, record.metric), record.evaluation.score)]


MEASURE_EVERY = timedelta(hours=1)
"""Time between two listings of all objects of a task in its store."""


@dataclass(eq=False)
class WatchedTask:
    """One task that the exporter serves."""

    store: TaskStore
    schedule: str | None = None
    """The task's cron schedule, if it has one."""
    ledger: LedgerReader = field(init=False)
    totals: Totals = field(default_factory=Totals)
    clock: Clock = utc_now
    state: TaskState = field(init=False)
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Bytes of the task in its store, by kind. Measured rarely, because listing all objects costs requests."""
    measured_at: datetime | None = None
    folder_is_missing: bool = False
    """Whether the folder of a local store did not exist at the last refresh."""
    read_at: float = 0.0
    """Time of the last complete reading of ledger and state, in seconds since 1970."""

    def __post_init__(self) -> None:
        self.ledger = LedgerReader(self.store)
        self.state = TaskState(self.store)

    def refresh(self) -> None:
        """Add new records to the totals, and read the state again.

        Raises `UserError` if the store or one of its objects cannot be read.
        """
        errors = self.ledger.errors
        for record in self.ledger.new():
            self.totals.add(record)
        self.totals.add_outcomes(self.store.task)
        self.state.refresh()
        self._warn_of_missing_folder()
        if self.measured_at is None or self.clock() - self.measured_at >= MEASURE_EVERY:
            self.sizes, self.measured_at = measure_bytes(self.store), self.clock()
        if self.ledger.errors == errors:
            self.read_at = time.time()

    def _warn_of_missing_folder(self) -> None:
        """Log a warning once if the store's folder does not exist, because its metrics are those of an empty task."""
        folder, known = missing_folder(self.store.url), self.folder_is_missing
        self.folder_is_missing = folder is not None
        if folder and not known:
            log.warning(
                "task %s: the store's folder %s does not exist: check the task's `store`, unless it is new",
                self.store.task,
                folder,
            )

    def metrics(self) -> Iterator[tuple[Name, Values]]:
        """Yield the metrics of the task's state, and of the exporter's reads."""
        task = (self.store.task,)
        yield names.LEDGER_READ, [(task, self.read_at)]
        yield names.LEDGER_ERRORS, [(task, self.ledger.errors)]
        yield names.LEDGER_RECORDS, [(task, len(self.ledger))]
        if self.schedule:
            yield names.SCHEDULE_PERIOD, [(task, longest_gap(self.schedule).total_seconds())]
        yield names.STORE_BYTES, [((self.store.task, kind), size) for kind, size in self.sizes.items()]
        yield from self.state.metrics()


PATIENCE = 20.0
"""Seconds that a refresh waits for slow stores. Their reads continue in the background, so that a store which does not
answer does not make the metrics of other tasks old."""
FIRST_PATIENCE = 240.0
"""The same for the first refresh, which reads the complete ledgers. The chart's startup probe allows 600 s."""


class Exporter(Collector):
    """Serves the tasks' metrics as they were at the last refresh. Each task's store is read in a thread."""

    def __init__(self, tasks: Sequence[WatchedTask]) -> None:
        self._pool = ThreadPoolExecutor(READERS, "read")
        self._active: dict[WatchedTask, Future[None]] = {}
        self._tasks = {task: list(_collect(task)) for task in tasks}
        self._families: Sequence[Metric] = ()

    def refresh(self, patience: float = PATIENCE) -> None:
        """Read new records of all tasks. If a task cannot be read, log the error and keep the task's last values.

        A task whose read takes longer than `patience` seconds keeps its last values too, until a later refresh.
        """
        for task in self._tasks.keys() - self._active.keys():
            self._active[task] = self._pool.submit(task.refresh)
        wait(self._active.values(), patience)
        for task in [task for task, reading in self._active.items() if reading.done()]:
            if (error := self._active.pop(task).exception()) is not None:
                _log_problem(task, error)
            self._tasks[task] = list(_collect(task))
        self._families = _merge(metric for metrics in self._tasks.values() for metric in metrics)

    def collect(self) -> Iterable[Metric]:
        """Return every metric as it was at the last refresh."""
        return self._families

    def close(self) -> None:
        """Start no more reads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _log_problem(task: WatchedTask, error: BaseException) -> None:
    """Log why a task could not be read. A defect is logged with its traceback, and does not stop the other tasks."""
    defect = None if isinstance(error, UserError) else error
    log.warning("task %s: %s", task.store.task, error, exc_info=defect)


def _collect(task: WatchedTask) -> Iterator[Metric]:
    """Yield all metrics of one task."""
    yield from task.totals.collect()
    for name, values in task.metrics():
        yield family(name, values)


def _merge(metrics: Iterable[Metric]) -> list[Metric]:
    """Return one metric for each name, with the values of all tasks."""
    merged: dict[str, Metric] = {}
    for metric in metrics:
        total = merged.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
        total.samples.extend(metric.samples)
    return list(merged.values())
