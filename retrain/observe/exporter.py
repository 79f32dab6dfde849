"""The exporter: metrics of some tasks, from their stores, read-only.

A scrape is answered from what was read last, so that it takes milliseconds however large the ledger and however slow
the store. `refresh` reads what is new; counters survive a restart because all of them follow from the ledger.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from retrain.cron import longest_gap
from retrain.errors import UserError
from retrain.layout import Layout
from retrain.observe import names
from retrain.observe.ledger_reader import LedgerReader
from retrain.observe.metrics import Totals, Values, family
from retrain.observe.names import Name
from retrain.observe.task_state import TaskState
from retrain.store.base import Store

log = logging.getLogger("retrain")


@dataclass
class Watched:
    """One task that the exporter serves."""

    store: Store
    layout: Layout
    schedule: str | None = None
    """When it is retrained, as cron says it."""
    ledger: LedgerReader = field(init=False)
    state: TaskState = field(init=False)
    read_at: float = 0.0
    """When both were last read whole; seconds since 1970."""

    def __post_init__(self) -> None:
        self.ledger = LedgerReader(self.store, self.layout)
        self.state = TaskState(self.store, self.layout)

    def refresh(self, totals: Totals) -> None:
        """Add what is new to the totals. Raises `UserError` if the store, or something in it, cannot be read."""
        errors = self.ledger.errors
        for record in self.ledger.new():
            totals.add(record)
        self.state.refresh()
        if self.ledger.errors == errors:
            self.read_at = time.time()

    def figures(self) -> Iterator[tuple[Name, Values]]:
        """Yield the task's state, and how the reading goes."""
        task = (self.layout.task,)
        yield names.LEDGER_READ, [(task, self.read_at)]
        yield names.LEDGER_ERRORS, [(task, self.ledger.errors)]
        yield names.LEDGER_RECORDS, [(task, len(self.ledger))]
        if self.schedule:
            yield names.SCHEDULE_PERIOD, [(task, longest_gap(self.schedule).total_seconds())]
        yield from self.state.figures()


class Exporter(Collector):
    """Serves the tasks' metrics as they were at the last refresh."""

    def __init__(self, tasks: Sequence[Watched]) -> None:
        self._tasks = tasks
        self._totals = Totals()
        self._families: Sequence[Metric] = ()

    def refresh(self) -> None:
        """Read what is new. A task that cannot be read is logged and keeps its last figures; the others go on."""
        for task in self._tasks:
            try:
                task.refresh(self._totals)
            except UserError as error:
                log.warning("task %s: %s", task.layout.task, error)
        self._families = [*self._totals.families(), *self._states()]

    def collect(self) -> Iterable[Metric]:
        """Return every metric as it was at the last refresh."""
        return self._families

    def _states(self) -> Iterator[Metric]:
        """One family a name, over all tasks."""
        figures: defaultdict[Name, list[tuple[tuple[str, ...], float]]] = defaultdict(list)
        for task in self._tasks:
            for name, values in task.figures():
                figures[name].extend(values)
        for name, values in figures.items():
            yield family(name, values)
