"""Make ledgers whose numbers are easy to add up by hand."""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from retrain.config import Method, Purpose
from retrain.config.task import Costs
from retrain.records import Cost, Decision, Drop, Evaluation, Machine, Result, RunRecord, Savings, Target
from retrain.records.drop import drop_digest
from retrain.store import ObjectStore
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore

START = datetime(2026, 1, 5, tzinfo=UTC)
SECONDS = 2.0
"""Seconds of one iteration on the device. Evaluation and saving take another 20 s per run."""
FLOPS = 1e9
"""Floating-point operations of one iteration. Evaluation takes another 1e10 per run."""
WHOLE = 60
"""Number of iterations that a scratch run continues after it has reached its final accuracy."""
ERROR = 7.0
"""Standard error of the number of iterations that a scratch run takes."""
EVALUATION = 10
"""Iterations that are charged for evaluating a run."""
EVALUATION_SECONDS = 12.0
COSTS = Costs(price_per_device_hour=1.8, currency="EUR", device_watts=300, grams_co2_per_kwh=250)


def target(accuracy: float = 0.8, baseline: int = 400, age: int = 0) -> Target:
    """Return the target L_100 of a baseline that took `baseline` iterations."""
    return Target(
        level=100,
        accuracy=accuracy,
        baseline_run="scratch-1",
        baseline_accuracy=accuracy,
        baseline_iterations=baseline,
        baseline_reached_at={"99": baseline * 9 // 10, "100": baseline},
        provenance="carried" if age else "measured",
        age=age,
    )


def run(
    number: int,
    used: int,
    baseline: int = 0,
    outcome: str = "reached",
    task: str = "pets",
    method: Method = "continuous",
    purpose: Purpose = "retrain",
    aim: Target | None = None,
    promoted: bool | None = None,
    attempt: int = 0,
    drops: Iterable[str] = ("d-1",),
) -> RunRecord:
    """Return the record of run `number`. The run ended `number` days after `START`.

    The run has an evaluation on test if it was promoted or refused, or if its purpose is not "retrain".
    """
    judged = promoted is not None or purpose != "retrain"
    evaluation = Evaluation(samples=100, accuracy=0.79, old=0.9, new=0.7, by_class={}, comparison=None)
    return RunRecord(
        run_id=f"{method}-{number}",
        task=task,
        method=method,
        purpose=purpose,
        outcome=outcome,
        error=None,
        dataset_digest="dataset",
        drops=tuple(drops),
        new_drops=(),
        parent=None,
        attempt=attempt,
        seed=0,
        scale=0.5,
        target=aim,
        result=_result(number, outcome, used, aim),
        evaluation=evaluation if judged else None,
        decision=None if promoted is None else Decision(promoted=promoted, reasons=() if promoted else ("worse",)),
        savings=None if purpose == "trial" else _savings(used, baseline, outcome, purpose),
        costs=COSTS,
        stage_seconds={"train": used * SECONDS, "evaluate": EVALUATION_SECONDS},
        started_at=START + timedelta(days=number),
        ended_at=START + timedelta(days=number),
    )


def _result(number: int, outcome: str, used: int, aim: Target | None) -> Result:
    """Return the result of a training that ended after `used` iterations.

    Unless it missed its target, it reached L_99 after nine tenths of the iterations, and L_100 at the end.
    """
    reached = {"99": None, "100": None} if outcome == "missed" else {"99": used * 9 // 10, "100": used}
    s_scratch = aim.baseline_reached_at["100"] if aim else None
    return Result(
        outcome=outcome,
        iterations=used,
        final_accuracy=0.81,
        best_accuracy=0.82,
        reached_at=reached,
        speed_up={level: s_scratch / at if s_scratch and at else None for level, at in reached.items()},
        model_digest=hashlib.sha256(b"%d" % number).hexdigest(),
        index_digest="index",
        cost=Cost(
            iterations=used,
            samples=used * 32,
            evaluated_images=320,
            flops=used * FLOPS,
            flops_all_in=used * FLOPS + 1e10,
            device_seconds=used * SECONDS,
            device_seconds_all_in=used * SECONDS + 20,
            measured_joules=used * SECONDS * 280,
        ),
        machine=Machine(retrain="0", torch="2", device="cpu", threads=1),
        started_at=START,
        ended_at=START,
    )


def _savings(used: int, baseline: int, outcome: str, purpose: Purpose) -> Savings:
    own_baseline = outcome == "completed" and purpose == "retrain"
    all_in = used if own_baseline else used + EVALUATION
    gross = 0 if purpose == "calibrate" else baseline - used
    whole = baseline if own_baseline or not baseline else baseline + WHOLE
    return Savings(
        baseline=baseline,
        whole=whole,
        used=used,
        used_all_in=all_in,
        gross=gross,
        net=baseline - all_in,
        gross_whole=0 if purpose == "calibrate" else whole - used,
        net_whole=whole - all_in,
        standard_error=0.0 if own_baseline or not baseline else ERROR,
    )


def pets() -> list[RunRecord]:
    """Return six runs: a scratch run, a calibration, a run that missed its target, its escalation, a trial, and a run
    whose candidate was refused."""
    aim = target(baseline=500, age=1)
    return [
        run(1, 400, 400, "completed", method="scratch", promoted=True),
        run(2, 500, 0, "completed", method="scratch", purpose="calibrate"),
        run(3, 100, 0, "missed", aim=aim),
        run(4, 150, 500, "reached", aim=aim, promoted=True, attempt=1, drops=("d-1", "d-2")),
        run(5, 300, 500, "reached", method="naive", purpose="trial", aim=aim),
        run(6, 250, 500, "reached", aim=target(baseline=500, age=2), promoted=False, drops=("d-1", "d-2", "d-3")),
    ]


def cars() -> list[RunRecord]:
    """Return one scratch run."""
    return [run(1, 1000, 1000, "completed", task="cars", method="scratch", promoted=True)]


def commit(store: ObjectStore, task: str, drop_id: str, at: datetime) -> None:
    """Write the manifest of a drop that was committed at this time."""
    drop = Drop(id=drop_id, task=task, classes=(), shards=(), counts={}, held_out={}, digest="", committed_at=at)
    whole = drop.model_copy(update={"digest": drop_digest(drop)})
    store.write(TaskKeys(task).manifest(drop_id), whole.to_bytes())


def write(store: ObjectStore, records: Iterable[RunRecord]) -> None:
    """Write records into the ledgers of their tasks."""
    for record in records:
        TaskStore(store, record.task).ledger.write(record)
