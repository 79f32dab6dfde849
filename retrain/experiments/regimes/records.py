"""Read and write the results of the regimes: one line of `results.jsonl` for each method, drop, regime and seed.

A regime is a data set, a network, and the order in which the images arrive as drops.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from retrain.errors import StudyError
from retrain.records import Curve, Machine, Record, RunRecord, Savings

FILE = "results.jsonl"
ADVICE_FILE = "advice.jsonl"

T = TypeVar("T", bound=Record)


class Key(NamedTuple):
    """The key of a line of the results. Drops are counted from 1."""

    regime: str
    seed: int
    method: str
    drop: int


class SuiteRun(Record):
    """The result of one method on one drop, summed over all runs on the drop.

    A run that misses its target may be followed by runs with longer schedules (escalation).
    """

    regime: str
    seed: int
    method: str
    drop: int
    outcome: str
    """Outcome of the last run."""
    promoted: bool | None
    """The gate's decision. None for a scratch run that only measures the baseline."""
    start: str
    """Reason for the initial weights, as the plan states it."""
    attempts: int
    """Number of runs on the drop."""
    iterations: int
    """Iterations of all runs."""
    schedule: int
    """Iterations of scratch's full training on this data."""
    batch_size: int
    evaluated_images: int
    curve: tuple[tuple[int, float], ...]
    """(iterations, accuracy on all of val) at each evaluation. Iterations of earlier runs on the drop are included."""
    final_accuracy: float
    """Final accuracy on val."""
    test_accuracy: float | None
    """Test accuracy of the last run's model."""
    champion_test_accuracy: float | None
    """Test accuracy of the champion after the gate's decision."""
    target_accuracy: float | None
    provenance: str | None
    """measured: the target comes from a baseline on this dataset. carried: from a baseline on earlier drops."""
    expected_scratch: float | None
    """The plan's estimate of scratch's iterations on this data."""
    savings: Savings | None
    """The ledger's savings of these runs."""
    device_seconds: float
    commit: str
    machine: Machine

    @property
    def key(self) -> Key:
        """Return the key of this line."""
        return Key(self.regime, self.seed, self.method, self.drop)


def summarize_runs(
    key: Key, records: Sequence[RunRecord], curves: Sequence[Curve], start: str, schedule: int, batch: int, commit: str
) -> SuiteRun:
    """Return the line for a method's runs on one drop. `records` and `curves` begin with the oldest run."""
    last, results = records[-1], [record.result for record in records if record.result]
    assert last.result is not None  # a run that fails raises an exception
    savings = [record.savings for record in records if record.savings]
    return SuiteRun(
        **key._asdict(),
        outcome=last.outcome,
        promoted=last.decision.promoted if last.decision else None,
        start=start,
        attempts=len(records),
        iterations=sum(result.iterations for result in results),
        schedule=schedule,
        batch_size=batch,
        evaluated_images=sum(result.cost.evaluated_images for result in results),
        curve=_join_curves(records, curves),
        final_accuracy=last.result.final_accuracy,
        test_accuracy=last.evaluation.accuracy if last.evaluation else None,
        champion_test_accuracy=_champion_accuracy(last),
        target_accuracy=last.target.accuracy if last.target else None,
        provenance=last.target.provenance if last.target else None,
        expected_scratch=last.scratch.iterations if last.scratch else None,
        savings=reduce(add, savings) if savings else None,
        device_seconds=sum(result.cost.device_seconds_all_in for result in results),
        commit=commit,
        machine=last.result.machine,
    )


def _join_curves(records: Sequence[RunRecord], curves: Sequence[Curve]) -> tuple[tuple[int, float], ...]:
    """Return the curves one after another. The iterations of each run are added to those of the runs before it."""
    joined: list[tuple[int, float]] = []
    before = 0
    for record, curve in zip(records, curves, strict=True):
        joined.extend((before + point.iteration, point.accuracy) for point in curve.points)
        before += record.result.iterations if record.result else 0
    return tuple(joined)


def _champion_accuracy(record: RunRecord) -> float | None:
    if record.evaluation is None or record.decision is None:
        return None
    if record.decision.promoted or record.evaluation.comparison is None:
        return record.evaluation.accuracy
    return record.evaluation.comparison.champion_accuracy


class SuiteAdvice(Record):
    """The advice of `retrain study recommend` after the second drop. A scratch run on both drops has ended before."""

    regime: str
    seed: int
    choice: str
    """A preset, or scratch."""
    why: str
    iterations: int
    """Iterations of all trial runs that compare the presets."""
    schedule: int
    """Iterations of scratch's full training on this data."""
    commit: str


def append_line(line: SuiteRun | SuiteAdvice, path: Path) -> None:
    """Append a complete line, even if other processes append too, or if a killed process left part of a line."""
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            torn = file.read(1) != b"\n"
            file.write(b"\n" if torn else b"")
        file.write(line.model_dump_json().encode() + b"\n")


def read_runs(folder: Path) -> dict[Key, SuiteRun]:
    """Read all results. Incomplete lines, left by a killed process, are ignored. The suite then repeats their runs.

    Raises `StudyError` if a line has another version's format.
    """
    return {run.key: run for run in _read(folder / FILE, SuiteRun)}


def read_advice(folder: Path) -> dict[tuple[str, int], SuiteAdvice]:
    """Read all advice, by regime and seed, as `read_runs` reads results."""
    return {(advice.regime, advice.seed): advice for advice in _read(folder / ADVICE_FILE, SuiteAdvice)}


def _read(path: Path, kind: type[T]) -> Iterator[T]:
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), 1):
        if not line.endswith(b"}"):
            continue
        try:
            yield kind.model_validate_json(line)
        except ValidationError as error:
            raise StudyError(
                f"{path}, line {number}: {error.errors()[0]['msg']}: remove the line or the file"
            ) from error
