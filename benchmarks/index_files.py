"""Measure reading and adding the learning-speed index of 100 million samples in the files of 50 drops.

Easy/hard sampling reads the complete index before a run. At the end of each run, the index is added to the run's
counters, drop by drop. Memory is the peak resident size of the process minus its size before, in bytes per sample. It
includes 8 bytes of the run's counters, and the files while they are read, added or written. The counters are random, as
after thirty epochs. The store is a folder. Every byte is checked, as in a run.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from exporter import record_of
from index import counters
from lib.report import parser, report
from lib.spent import spent

from retrain.config.loading import load_task
from retrain.pipeline.planning import History, Request, make_plan
from retrain.recipe.learning_speed import Counters, add_decayed, split
from retrain.records import Drop, Plan
from retrain.store import LocalStore
from retrain.store.runs import RunFiles
from retrain.store.task_store import TaskStore
from retrain.training.index_files import read_counters, read_known_counters, write_counters

TASK = Path(__file__).parents[1] / "tasks" / "digits.yaml"


def drop(number: int, samples: int) -> Drop:
    """Return a drop with this number of training samples."""
    return Drop(
        id=f"d-{number}",
        task="digits",
        classes=("one",),
        shards=(),
        counts={"train": {"one": samples}, "val": {"one": 1}, "test": {"one": 1}},  # a plan needs every split
        held_out={},
        digest=f"{number}",
        committed_at=datetime.now(UTC),
    )


def write_finished_run(folder: Path, drops: int, samples: int) -> tuple[RunFiles, Plan]:
    """Write a finished run with its learning-speed index to a store. Return the run's files and its plan."""
    landed = [drop(number, samples // drops) for number in range(drops)]
    plan = make_plan(load_task(str(TASK)), landed, History({}, None), Request())
    result = record_of(0).result
    if not isinstance(plan, Plan) or result is None:
        raise RuntimeError(f"expected a plan, got {plan}")
    files = TaskStore(LocalStore(folder), "digits").run(plan.run_id)
    files.write_plan(plan)
    parts = (counters(each.samples, number) for number, each in enumerate(plan.dataset.drops))
    files.write_result(result.model_copy(update={"index_digest": write_counters(files, plan.dataset, parts)}))
    return files, plan


def measure(files: RunFiles, plan: Plan, samples: int) -> dict[str, object]:
    """Return the cost of reading the learning-speed index, and of adding it to a run's counters."""
    known = len(plan.dataset.drops)

    def read() -> None:
        read_counters(files, plan.dataset, known)

    def add_parent() -> Iterator[Counters]:
        own = split(counted, [drop.samples for drop in plan.dataset.drops])
        for old, new in zip(read_known_counters(files, plan.dataset, known), own, strict=True):
            yield add_decayed(old, new, 0.5)

    def write() -> None:
        write_counters(replace(files, run_id="next"), plan.dataset, add_parent())

    reading = spent(read)
    counted = counters(samples, seed=1)
    writing = spent(write)
    return {
        "reading all": {"seconds": reading.seconds(), "most bytes a sample": reading.bytes_each(samples)},
        "adding drop by drop": {
            "seconds": writing.seconds(),
            "most bytes a sample": 8 + writing.bytes_each(samples),
        },
    }


def main() -> None:
    """Run the measurements, and report them."""
    options = parser(__doc__)
    options.add_argument("--samples", type=int, default=100_000_000)
    options.add_argument("--drops", type=int, default=50)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="retrain-index-") as folder:
        files, plan = write_finished_run(Path(folder), chosen.drops, chosen.samples)
        report(
            {"samples": chosen.samples, "drops": chosen.drops, **measure(files, plan, chosen.samples)}, chosen.output
        )


if __name__ == "__main__":
    main()
