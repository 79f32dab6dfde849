"""The runs of a study's grid: the plan and the record of each cell. The module does not need torch."""

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import NamedTuple

from retrain.config.loading import find_task
from retrain.config.task import Task
from retrain.errors import StudyError
from retrain.experiments.grid import Cell, all_cells, cells, drop_ids, parent_of, plan_method, task_of
from retrain.experiments.kept_runs import EndedRun, Figures
from retrain.experiments.settings import Study
from retrain.pipeline import planning
from retrain.pipeline.planning import History, Request
from retrain.records import Dataset, Drop, Plan, RunRecord
from retrain.store import open_store
from retrain.store.base import Missing, ObjectStore
from retrain.store.task_store import TaskStore
from retrain.utils.parallel import map_ahead

MEASURES_FILE = "measures.json"
"""Name of a run's file with its measures."""


class Data(NamedTuple):
    """The drops of one split, and the ledger's records of the runs on them."""

    drops: tuple[Drop, ...]
    records: Mapping[str, RunRecord]


def _without_dataset(parent: Plan) -> Plan:
    """Return the plan of a run with an empty dataset: all of the next run's data is then new."""
    return Plan.model_validate(dict(parent) | {"dataset": Dataset(drops=(), classes=())})


class Runs:
    """A study's runs in a store: the store at `store_url`, or the task's store if that is None."""

    def __init__(self, study: Study, store_url: str | None) -> None:
        self.study, self.store_url = study.model_copy(update={"task": str(find_task(study.task))}), store_url
        self._tasks: dict[Cell, Task] = {}
        self._plans: dict[Cell, Plan] = {}
        self._data: dict[str, Data] = {}
        self._records: dict[str, dict[str, RunRecord]] = {}

    @cached_property
    def objects(self) -> ObjectStore:
        """Return the object store of all cells."""
        task = self.task(next(cells(self.study, 1)))
        return open_store(task.store, task.endpoint_url)

    def store(self, task: str) -> TaskStore:
        """Return the store of one split's task."""
        return TaskStore(self.objects, task)

    def task(self, cell: Cell) -> Task:
        """Return a cell's task. It is read once."""
        if cell not in self._tasks:
            self._tasks[cell] = task_of(self.study, cell, self.store_url)
        return self._tasks[cell]

    def data(self, cell: Cell) -> Data:
        """Return the drops and records of a cell's split. They are cached until `forget`."""
        task = self.task(cell).name
        if task not in self._data:
            store, records = self.store(task), self._records.setdefault(task, {})
            found = map_ahead(store.ledger.find, sorted(store.ledger.run_ids() - records.keys()))
            records |= {record.run_id: record for record in found if record}
            self._data[task] = Data(store.drops.all(), dict(records))
        return self._data[task]

    def drops(self, cell: Cell) -> list[Drop]:
        """Return the drops that a cell's run trains on. Raises `StudyError` if some are missing."""
        drops, by = self.data(cell).drops, self.study.splits[cell.split].by
        if not self.has_landed(cell):
            raise StudyError(
                f"study {self.study.name}: the drops of split {cell.split} are not in {self.objects.url}: run "
                f"`retrain study run {self.study.name}` first"
            )
        names = drop_ids(self.study, cell)
        by_id = {drop.id: drop for drop in drops}
        return [by_id[name] for name in (names[-1:] if by == "transfer" else names)]

    def has_landed(self, cell: Cell) -> bool:
        """Return whether all drops of a cell are committed."""
        return {drop.id for drop in self.data(cell).drops} >= set(drop_ids(self.study, cell))

    def forget(self) -> None:
        """Clear the caches, because runs have ended. Ended runs do not change: their plans and records are kept."""
        ended = {run_id for data in self._data.values() for run_id in data.records}
        self._plans = {cell: plan for cell, plan in self._plans.items() if plan.run_id in ended}
        self._data.clear()

    def plan(self, cell: Cell) -> Plan:
        """Return a cell's plan, as a retry if its run has failed before. Raises `StudyError` if drops are missing."""
        if cell not in self._plans:
            self._plans[cell] = self._plan(cell)
        return self._plans[cell]

    def _plan(self, cell: Cell) -> Plan:
        parent = parent_of(cell)
        champion = self.plan(parent) if parent else None
        if champion and self.study.splits[cell.split].by == "transfer":
            champion = _without_dataset(champion)
        request = Request(plan_method(self.study, cell), "trial")
        planned = planning.make_plan(self.task(cell), self.drops(cell), History({}, champion), request)
        assert isinstance(planned, Plan)  # there are drops, and the history is empty
        while (record := self.data(cell).records.get(planned.run_id)) and record.outcome == "failed":
            planned = planned.model_copy(update={"retry": planned.retry + 1})
        return planned

    def record(self, cell: Cell) -> RunRecord | None:
        """Return the record of a cell's run, or None if it has not ended."""
        return self.data(cell).records.get(self.plan(cell).run_id) if self.has_landed(cell) else None

    def can_start(self, cell: Cell) -> bool:
        """Return whether a cell's run can start: it has drops and no record, and its parent, if any, has a model."""
        parent = parent_of(cell)
        if not self.has_landed(cell) or self.record(cell):
            return False
        return parent is None or self.has_model(parent)

    def has_model(self, cell: Cell) -> bool:
        """Return whether a cell's run has ended with a model."""
        record = self.record(cell)
        return record is not None and record.outcome == "completed"

    def blocked(self) -> list[Cell]:
        """Return the cells without a run, after all runs that can start have ended.

        A run that these cells continue from has no model: it diverged, or failed in another process.
        """
        return [cell for cell in all_cells(self.study) if self.record(cell) is None]

    def _ended_run(self, cell: Cell, record: RunRecord) -> EndedRun:
        store = self.store(record.task)
        curve = store.run(record.run_id).curve()
        return EndedRun(cell, record, curve, _measures_of(store, record.run_id, self.study.measures))

    def ended_runs(self) -> list[EndedRun]:
        """Return all ended runs, in the grid's order."""
        return [self._ended_run(cell, record) for cell in all_cells(self.study) if (record := self.record(cell))]


def _measures_of(store: TaskStore, run_id: str, names: Iterable[str]) -> Figures:
    """Return the named measures of a run, if they exist."""
    found = read_measures(store, run_id)
    return {figure: value for name in names for figure, value in found.get(name, {}).items()}


def read_measures(store: TaskStore, run_id: str) -> dict[str, Figures]:
    """Return the measures of an ended run besides its accuracy, by the measure's name."""
    try:
        figures: dict[str, Figures] = json.loads(store.objects.read(store.keys.run(run_id, MEASURES_FILE))[0])
    except Missing:
        return {}
    return figures
