"""Run every method on the drops of one regime, one after the other, with one seed.

A regime is a data set, a network, and the order in which the images arrive as drops. Each method has its own store. All
methods start from the same first model, and no store contains another method's models. The stores stay in the
output folder until every result is written. A killed sequence therefore resumes with its first missing result.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from retrain.config.task import Task
from retrain.errors import StudyError
from retrain.experiments.recommend import recommend
from retrain.experiments.regimes.drops import drop_name, pack_drops
from retrain.experiments.regimes.methods import AVERAGED, FIRST, METHODS, PLAIN, Method
from retrain.experiments.regimes.records import (
    ADVICE_FILE,
    FILE,
    Key,
    SuiteAdvice,
    SuiteRun,
    append_line,
    read_advice,
    read_runs,
    summarize_runs,
)
from retrain.experiments.regimes.settings import Regime, task_of
from retrain.experiments.workers import Workers
from retrain.pipeline import stages
from retrain.pipeline.context import Context
from retrain.pipeline.planning import Request
from retrain.records import Plan, RunRecord
from retrain.store import LocalStore
from retrain.store.task_store import TaskStore
from retrain.training.progress import Observers

log = logging.getLogger("retrain")

ADVICE = "advice"
"""Name of the store with the trial runs that compare the presets, as `retrain study recommend` does."""


class SuiteContext(NamedTuple):
    """Folders of the suite, and the commit of the code."""

    root: Path
    """Folder of the data sets."""
    out: Path
    """Folder of the results."""
    commit: str
    """Commit of the code that makes the results."""


class DropSequence:
    """All drops of one regime with one seed, and the runs of every method on these drops."""

    def __init__(self, regime: Regime, seed: int, suite: SuiteContext, methods: dict[str, Method]) -> None:
        self.regime, self.seed, self.suite, self.methods = regime, seed, suite, METHODS | methods
        self.folder = suite.out / "work" / f"{regime.name}-{seed}"

    def run(self) -> int:
        """Execute the missing runs, append their results to the files, and return the number of new results."""
        missing = [key for key in self._keys() if key not in read_runs(self.suite.out)]
        is_advised = (self.regime.name, self.seed) in read_advice(self.suite.out)
        if not missing and is_advised:
            return 0
        pack_drops(
            self.regime, self.seed, self._task({}), self._store("drops"), self.suite.root, self.folder / "images"
        )
        self._run_first()
        for name in self.methods:
            if self._is_needed(name, missing):
                self._clone_first(name)
                for drop in range(2, len(self.regime.drops) + 1):
                    self._run_drop(name, drop)
        if not is_advised:
            self._compare_presets()
        shutil.rmtree(self.folder)
        return len(missing) + (not is_advised)

    def _keys(self) -> list[Key]:
        """Return the keys of all results of this sequence."""
        drops = range(2, len(self.regime.drops) + 1)
        later = [Key(self.regime.name, self.seed, name, drop) for name in self.methods for drop in drops]
        return [Key(self.regime.name, self.seed, FIRST, 1), *later]

    def _is_needed(self, name: str, missing: Sequence[Key]) -> bool:
        """Return whether a method must run: its results are missing, or other runs need its accuracy as target."""
        asked = {key.method for key in missing} - {FIRST}
        targets = {self.methods[method].target for method in asked}
        return name in asked or name == PLAIN or (name == AVERAGED and "averaged" in targets)

    def _task(self, overrides: dict[str, object]) -> Task:
        return task_of(self.regime, self.seed, overrides)

    def _store(self, name: str) -> TaskStore:
        return TaskStore(LocalStore(self.folder / name), self.regime.name)

    def _context(self, store: TaskStore) -> Context:
        return Context(store, torch.device("cpu"), self.folder / "cache", Observers())

    def _run_first(self) -> None:
        """Train the first model on the first drop, with default settings."""
        store = self._store(FIRST)
        self._copy_drop(FIRST, 1)
        stages.run_task(self._context(store), self._task({}), Request())
        if store.champion.read().run_id is None:
            raise StudyError(
                f"regime {self.regime.name}, seed {self.seed}: the first model was not promoted: read the "
                f"reason in the ledger of {store.url}, or increase images.train"
            )
        self._append_result(store, FIRST, 1)

    def _clone_first(self, name: str) -> None:
        """Create a method's store as a copy of the first model's, unless it exists."""
        folder, copy = self.folder / name, self.folder / f"{name}.part"
        if not folder.exists():
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(self.folder / FIRST, copy)
            copy.rename(folder)

    def _copy_drop(self, name: str, drop: int) -> None:
        """Copy a packed drop into a method's store."""
        drops = f"{self.regime.name}/drops"
        folder, copy = self.folder / name / drops / drop_name(drop), self.folder / f"{drop_name(drop)}.part"
        if not folder.exists():
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(self.folder / "drops" / drops / drop_name(drop), copy)
            folder.parent.mkdir(parents=True, exist_ok=True)
            copy.rename(folder)

    def _run_drop(self, name: str, drop: int) -> None:
        method, store = self.methods[name], self._store(name)
        task = self._task(method.overrides)
        self._copy_drop(name, drop)
        if method.target in ("plain", "averaged"):
            copy_calibration(self._store(PLAIN if method.target == "plain" else AVERAGED), store, task, drop)
        purpose = "calibrate" if method.target == "none" else "retrain"
        if not _runs_on(store, drop, purpose) or _is_under_way(store, drop, purpose):
            stages.run_task(self._context(store), task, Request(purpose=purpose))  # type: ignore[arg-type]
        self._append_result(store, name, drop)

    def _compare_presets(self) -> None:
        """Compare the presets in trial runs on drop 2, as `retrain study recommend` does, and append the advice."""
        store = self._store(ADVICE)
        self._clone_first(ADVICE)
        self._copy_drop(ADVICE, 2)
        task = self._task({}).model_copy(update={"store": str(self.folder / ADVICE)})
        copy_calibration(self._store(PLAIN), store, task, 2)
        found = recommend(store, task, None, 1, Workers(device="cpu"))
        assert found.plan.scratch is not None  # because trial runs continue from a parent
        advice = SuiteAdvice(
            regime=self.regime.name,
            seed=self.seed,
            choice=found.advice.choice,
            why=found.advice.why,
            iterations=found.used,
            schedule=found.plan.scratch.schedule,
            commit=self.suite.commit,
        )
        append_line(advice, self.suite.out / ADVICE_FILE)
        log.info("%s, seed %d: recommended preset %s: %s", advice.regime, advice.seed, advice.choice, advice.why)

    def _append_result(self, store: TaskStore, name: str, drop: int) -> None:
        """Append the result of a method on a drop, unless it is already written."""
        key = Key(self.regime.name, self.seed, name, drop)
        if key in read_runs(self.suite.out):
            return
        run = summarize_drop(store, key, self.suite.commit)
        append_line(run, self.suite.out / FILE)
        log.info("%s, seed %d: %s, drop %d: %s", *key[:2], name, drop, describe(run))


def summarize_drop(store: TaskStore, key: Key, commit: str) -> SuiteRun:
    """Return the result of a method on a drop from its store."""
    purpose = "calibrate" if key.method in (PLAIN, AVERAGED) else "retrain"
    records = _runs_on(store, key.drop, purpose)
    if not records or records[-1].result is None:
        raise StudyError(
            f"{store.url}: no run of {key.method} on {drop_name(key.drop)} has ended with a result: run the suite again"
        )
    plan = store.run(records[-1].run_id).plan()
    curves = [store.run(record.run_id).curve() for record in records]
    batch = plan.task.training.batch_size
    schedule = round(plan.task.training.epochs * plan.dataset.samples / batch)
    return summarize_runs(key, records, curves, plan.start, schedule, batch, commit)


def describe(run: SuiteRun) -> str:
    """Return the result of a run in one line."""
    test = "-" if run.test_accuracy is None else f"{run.test_accuracy:.1%}"
    return f"{run.outcome}, {run.iterations:,} of {run.schedule:,} iterations, test {test}, {run.device_seconds:.0f} s"


def _runs_on(store: TaskStore, drop: int, purpose: str) -> list[RunRecord]:
    """Return the ended runs whose newest drop is this one, oldest first, without failed runs."""
    name = drop_name(drop)
    records = [record for record in store.ledger.read() if record.drops[-1] == name and record.purpose == purpose]
    return [record for record in records if record.outcome != "failed"]


def _is_under_way(store: TaskStore, drop: int, purpose: str) -> bool:
    """Return whether the last of a drop's runs is followed by a run that has not ended."""
    return _runs_on(store, drop, purpose)[-1].followed_by is not None


def copy_calibration(source: TaskStore, target: TaskStore, task: Task, drop: int) -> None:
    """Copy the records of the scratch run on the drops up to `drop` into another store.

    The next plan in that store takes its target from this run. The copied plan gets the training settings of `task`,
    because the planner ignores a run whose averaging settings differ.
    """
    record = _runs_on(source, drop, "calibrate")[-1]
    if target.ledger.find(record.run_id):
        return
    files, copies = source.run(record.run_id), target.run(record.run_id)
    plan, result = files.plan(), files.result()
    assert result is not None  # a calibration that has ended
    copies.write_plan(Plan(**dict(plan) | {"task": plan.task.model_copy(update={"training": task.training})}))
    copies.write_curve(files.curve().points)
    copies.write_result(result)
    target.ledger.write(record)
