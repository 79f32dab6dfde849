"""Make histories of records: manifests of drops, records of finished runs, and the champion."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from retrain.config.task import Task
from retrain.pipeline.accounting import make_record
from retrain.pipeline.planning import History, NoRunNeeded, Request, make_plan
from retrain.pipeline.targets import ScratchRun
from retrain.records import Cost, Curve, Decision, Drop, Machine, Plan, Point, Result, RunRecord
from retrain.records.drop import drop_digest
from retrain.records.ledger import is_baseline

DEFAULT = Request()
START = datetime(2026, 1, 1, tzinfo=UTC)
TASK = Task.model_validate(
    {
        "name": "pets",
        "training": {"epochs": 10, "batch_size": 10, "evaluate_every": 1},
        "recipe": {"preset": "paper"},
        "baseline": {"refresh": {"on_miss": True}},
    }
)
DEFAULT_TASK = Task.model_validate({"name": "pets", "training": {"epochs": 10, "batch_size": 10}})
"""The task with default settings."""
CURVE = ((50, 0.5), (100, 0.79), (150, 0.795), (200, 0.82), (250, 0.8))
"""Curve of a scratch run: iterations, and accuracies at them. The run ends at an accuracy of 0.8. It reaches 99% of
this accuracy at iteration 150, and 100% at iteration 200."""


def configured(**parts: object) -> Task:
    """Return the task with other settings."""
    return Task.model_validate({**TASK.model_dump(), **parts})


def drop(number: int, samples: int = 500, classes: Sequence[str] = ("cat", "dog")) -> Drop:
    """Return drop `number`. It landed `number` minutes after `START`, and all its classes have equally many samples."""
    each = dict.fromkeys(classes, samples // len(classes))
    return Drop(
        id=f"d-{number}",
        task="pets",
        classes=tuple(classes),
        shards=(),
        counts={"train": each, "val": dict.fromkeys(classes, 50), "test": dict.fromkeys(classes, 50)},
        held_out={},
        digest=f"content-{number}",
        committed_at=START + timedelta(minutes=number),
    )


def make_drop(drop_id: str, minute: int, classes: tuple[str, ...] = ("cat",)) -> Drop:
    """Return the manifest of a drop that was committed at this minute of November 2026.

    The drop has ten training samples for each class.
    """
    drop = Drop(
        id=drop_id,
        task="pets",
        classes=classes,
        shards=(),
        counts={"train": dict.fromkeys(classes, 10), "val": {}, "test": {}},
        held_out={"val": 0.1},
        digest="",
        committed_at=datetime(2026, 11, 1, tzinfo=UTC) + timedelta(minutes=minute),
    )
    return drop.model_copy(update={"digest": drop_digest(drop)})


def result(
    outcome: str, iterations: int = 40, accuracy: float = 0.8, evaluated: int = 300, reached: bool = True
) -> Result:
    """Return the result of a training. If it has not `reached` its target, `reached_at` has no iterations."""
    cost = Cost(
        iterations=iterations,
        samples=iterations * 10,
        evaluated_images=evaluated,
        flops=1e6 * iterations,
        flops_all_in=1.25e6 * iterations,
        device_seconds=0.5 * iterations,
        device_seconds_all_in=0.75 * iterations,
    )
    reached_at = {"99": 150, "100": 200} if outcome == "completed" else {"99": iterations, "100": iterations}
    speed_up = (
        {"99": None, "100": None} if outcome == "completed" else {"99": 200 / iterations, "100": 200 / iterations}
    )
    return Result(
        outcome=outcome,
        iterations=iterations,
        final_accuracy=accuracy,
        in_scope=accuracy if reached else accuracy - 0.01,
        best_accuracy=accuracy,
        reached_at=reached_at if reached else {"99": None, "100": None},
        speed_up=speed_up,
        model_digest=None if outcome == "diverged" else "m",
        index_digest="i",
        cost=cost,
        machine=Machine(retrain="0", torch="2", device="cpu", threads=1),
        started_at=START,
        ended_at=START,
    )


def curve() -> Curve:
    """Return the curve of a scratch run."""
    return Curve(
        points=tuple(
            Point(iteration=at, accuracy=accuracy, loss=1.0, images=100, train_loss=1.0, learning_rate=0.1)
            for at, accuracy in CURVE
        )
    )


class Past:
    """The drops and runs of a task, one run after the other."""

    def __init__(self, task: Task = TASK) -> None:
        self.task = task
        self.drops: list[Drop] = []
        self.records: list[RunRecord] = []
        self.champion: Plan | None = None
        self.scratch_runs: list[ScratchRun] = []

    def landed(self, *drops: Drop) -> "Past":
        """Add drops that have landed, and return this history."""
        self.drops.extend(drops)
        return self

    def next(self, request: Request = DEFAULT, task: Task | None = None) -> Plan | NoRunNeeded:
        """Return the next plan, or the reason why no run is needed."""
        history = History({record.run_id: record for record in self.records}, self.champion, self.scratch_runs)
        return make_plan(task or self.task, self.drops, history, request)

    def plan(self, request: Request = DEFAULT, task: Task | None = None) -> Plan:
        """Return the next plan. Fail if no run is needed."""
        planned = self.next(request, task)
        assert isinstance(planned, Plan), planned
        return planned

    def ended(
        self, plan: Plan, outcome: str | None = None, promoted: bool | None = True, **numbers: float
    ) -> RunRecord:
        """End a run, and return its record. Scratch runs end with `CURVE`. Other runs reach their target by default."""
        outcome = outcome or ("reached" if plan.target else "completed")
        decision = None if promoted is None else Decision(promoted=promoted, reasons=() if promoted else ("worse",))
        of_scratch = {"iterations": 250} if outcome == "completed" else {}
        ended = None if outcome == "failed" else result(outcome, **(of_scratch | numbers))
        record = make_record(plan, ended, None, decision, "it broke" if outcome == "failed" else None)
        self.records.append(record)
        if promoted:
            self.champion = plan
        if is_baseline(record) and ended:
            self.scratch_runs.insert(0, ScratchRun(record, ended, curve(), plan.dataset))
        return record


def one_drop(task: Task = TASK) -> Past:
    """Return a history of one drop of 500 cats and dogs, and of a champion trained on it from scratch."""
    past = Past(task).landed(drop(1))
    past.ended(past.plan())
    return past
