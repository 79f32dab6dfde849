"""The runs of a study's grid: what each cell plans, and what came of it."""

from collections.abc import Mapping
from functools import cached_property
from itertools import chain
from typing import NamedTuple

from retrain.config.task import Task
from retrain.errors import StudyError
from retrain.experiments import measures
from retrain.experiments.grid import Cell, cells, drop_ids, parent_of, parts_of, task_of, word_of
from retrain.experiments.kept_runs import EndedRun
from retrain.experiments.settings import Study
from retrain.pipeline import planning
from retrain.pipeline.planning import History, Request
from retrain.records import Dataset, Drop, Plan, RunRecord
from retrain.store import open_store
from retrain.store.base import ObjectStore
from retrain.store.task_store import TaskStore


class Data(NamedTuple):
    """What landed of one split, and what the ledger says of the runs on it."""

    drops: tuple[Drop, ...]
    records: Mapping[str, RunRecord]


def _of_other_data(parent: Plan) -> Plan:
    """The plan of a run, under its own id, as one that has seen nothing of what comes now."""
    return Plan.model_validate(dict(parent) | {"dataset": Dataset(drops=(), classes=())})


class Runs:
    """A study's runs in a store: the one that is named, or else the task's own."""

    def __init__(self, study: Study, store_url: str | None) -> None:
        self.study, self.store_url = study, store_url
        self._plans: dict[Cell, Plan] = {}
        self._data: dict[str, Data] = {}

    @cached_property
    def objects(self) -> ObjectStore:
        """The object store, which is one for all cells."""
        task = self.task(next(cells(self.study, 1)))
        return open_store(task.store, task.endpoint_url)

    def store(self, task: str) -> TaskStore:
        """Return the part of the store of one split's task."""
        return TaskStore(self.objects, task)

    def task(self, cell: Cell) -> Task:
        """Return a cell's task."""
        return task_of(self.study, cell, self.store_url)

    def data(self, cell: Cell) -> Data:
        """Return the drops and records of a cell's split, as they were when first asked for, or `forget`."""
        task = self.task(cell).name
        if task not in self._data:
            store = self.store(task)
            records = {record.run_id: record for record in store.ledger.read()}
            self._data[task] = Data(store.drops.all(), records)
        return self._data[task]

    def drops(self, cell: Cell) -> list[Drop]:
        """Return what a cell's run trains on. Raises `StudyError` if drops are missing."""
        drops, by = self.data(cell).drops, self.study.splits[cell.split].by
        if not self.has_landed(cell):
            raise StudyError(f"study {self.study.name}: the drops of split {cell.split} are not in {self.objects.url}")
        names = drop_ids(self.study, cell)
        by_id = {drop.id: drop for drop in drops}
        return [by_id[name] for name in (names[-1:] if by == "transfer" else names)]

    def has_landed(self, cell: Cell) -> bool:
        """Return whether the drops of a cell are there."""
        return {drop.id for drop in self.data(cell).drops} >= set(drop_ids(self.study, cell))

    def forget(self) -> None:
        """Read the store anew from here on: runs have ended."""
        self._plans.clear()
        self._data.clear()

    def plan(self, cell: Cell) -> Plan:
        """Return a cell's plan, past attempts that failed by an error. Raises `StudyError` if drops are missing."""
        if cell not in self._plans:
            self._plans[cell] = self._plan(cell)
        return self._plans[cell]

    def _plan(self, cell: Cell) -> Plan:
        parent = parent_of(cell)
        champion = self.plan(parent) if parent else None
        if champion and self.study.splits[cell.split].by == "transfer":
            champion = _of_other_data(champion)
        request = Request(word_of(self.study, cell), "trial")
        planned = planning.make_plan(self.task(cell), self.drops(cell), History({}, champion), request)
        assert isinstance(planned, Plan)  # there are drops, and nothing in this history was done
        while (record := self.data(cell).records.get(planned.run_id)) and record.outcome == "failed":
            planned = planned.model_copy(update={"retry": planned.retry + 1})
        return planned

    def record(self, cell: Cell) -> RunRecord | None:
        """Return what the ledger says of a cell, or None if its run has not ended."""
        return self.data(cell).records.get(self.plan(cell).run_id) if self.has_landed(cell) else None

    def can_start(self, cell: Cell) -> bool:
        """Return whether a cell has not run and has what it continues from: a parent that left a model."""
        parent = parent_of(cell)
        if not self.has_landed(cell) or self.record(cell):
            return False
        return parent is None or self.left_model(parent)

    def left_model(self, cell: Cell) -> bool:
        """Return whether a cell's run has ended with a model."""
        record = self.record(cell)
        return record is not None and record.outcome == "completed"

    def _ran(self, cell: Cell, record: RunRecord) -> EndedRun:
        store = self.store(record.task)
        curve = store.run(record.run_id).curve()
        return EndedRun(cell, record, curve, measures.read(store, record.run_id, self.study.measures))

    def ran(self) -> list[EndedRun]:
        """Return all cells whose runs have ended, in the grid's order."""
        longest = max(parts_of(self.study, split) for split in self.study.splits)
        grid = chain.from_iterable(cells(self.study, drops) for drops in range(1, longest + 1))
        return [self._ran(cell, record) for cell in grid if (record := self.record(cell))]
