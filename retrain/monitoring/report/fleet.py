"""Render one page of all tasks: savings, state, the champion's age, waiting drops, and cost by month."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from retrain.config.task import Task
from retrain.errors import UserError
from retrain.monitoring import metrics, names
from retrain.monitoring.metrics import is_final
from retrain.monitoring.report.figures import Headline, headline, sum_by_currency
from retrain.monitoring.report.page import make_environment
from retrain.pipeline.status import Status, make_status
from retrain.records import RunRecord
from retrain.store import missing_folder
from retrain.store.task_store import open_task_store

MONTHS = 24
"""Largest number of months on the page, newest first. It keeps the table short."""


class FleetTask(NamedTuple):
    """One task on the page. If its store cannot be read, `problem` is the reason and the other fields are empty."""

    name: str
    records: Sequence[RunRecord] = ()
    status: Status | None = None
    headline: Headline | None = None
    problem: str = ""

    @property
    def money(self) -> Mapping[str, float]:
        """Return the net savings in money, by currency."""
        return sum_by_currency(self.records, metrics.SUMS[names.SAVED_NET["cost"]])

    @property
    def state(self) -> str:
        """Return "awaits approval" if a candidate awaits it, and else how the newest retraining ended.

        If none has ended, name a missing folder of the store.
        """
        if self.status and self.status.awaiting:
            return "awaits approval"
        final = [record for record in self.records if is_final(record)]
        if final:
            return final[-1].ending
        folder = missing_folder(self.status.store) if self.status else None
        return f"no run yet: the store's folder {folder} does not exist" if folder else "no run yet"


class Month(NamedTuple):
    """The cost and savings of the runs that ended in a month."""

    name: str
    runs: int
    device_seconds: float
    cost: Mapping[str, float]
    """Money spent, by currency. Empty if no task sets a price."""
    saved: Mapping[str, float]
    """Net money saved, by currency, compared with training from scratch until it first reaches its final accuracy."""
    saved_whole: Mapping[str, float]
    """Net money saved, by currency, compared with whole trainings from scratch."""


def read_fleet(tasks: Iterable[Task]) -> list[FleetTask]:
    """Read every task's ledger and state. A task that cannot be read gets a `problem`, and the next task is read."""
    return [_read(task) for task in tasks]


def _read(task: Task) -> FleetTask:
    try:
        store = open_task_store(task)
        records = store.ledger.read()
        return FleetTask(task.name, records, make_status(task, store, records), headline(records))
    except UserError as error:
        return FleetTask(task.name, problem=str(error))


def months(records: Iterable[RunRecord]) -> list[Month]:
    """Return each month's cost and savings, newest month first. A run belongs to the month in which it ended."""
    by_month: defaultdict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        by_month[f"{record.ended_at:%Y-%m}"].append(record)
    return [_month(name, by_month[name]) for name in sorted(by_month, reverse=True)[:MONTHS]]


def _month(name: str, records: Sequence[RunRecord]) -> Month:
    return Month(
        name=name,
        runs=len(records),
        device_seconds=sum(record.result.cost.device_seconds_all_in for record in records if record.result),
        cost=sum_by_currency(records, metrics.SUMS[names.CONSUMED["cost"]]),
        saved=sum_by_currency(records, metrics.SUMS[names.SAVED_NET["cost"]]),
        saved_whole=sum_by_currency(records, metrics.SUMS[names.SAVED_WHOLE_NET["cost"]]),
    )


def render_fleet(tasks: Sequence[FleetTask], link_to: Callable[[str], str] | None = None) -> str:
    """Return the page as HTML. `link_to` returns the address of a task's page, or is None."""
    records = [record for task in tasks for record in task.records]
    return (
        make_environment()
        .get_template("fleet.html")
        .render(
            tasks=tasks,
            total=headline(records),
            months=months(records),
            now=datetime.now(UTC),
            link_to=link_to,
        )
    )
