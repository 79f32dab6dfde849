"""Measure the time of all stages except training while 50 drops accumulate. A retraining follows each drop.

The digits are divided into 50 drops of 2% each, in a folder or in an S3 bucket (`--store`, `--endpoint-url`). A small
perceptron is trained for only a few iterations. The benchmark measures five parts: listing the drops and reading their
manifests, reading the ledger, planning, setting up a run with the drops from the cache, and all stages after planning.
The output has medians of ten consecutive retrainings, in processor time and wall time.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from lib.report import parser, report

from retrain.config.loading import load_task
from retrain.data.packing import pack
from retrain.data.staging import Staging
from retrain.experiments.datasets import write_digits
from retrain.pipeline import stages
from retrain.pipeline.context import Context
from retrain.pipeline.planning import Request
from retrain.pipeline.train import prepare
from retrain.records import Plan
from retrain.store import open_store
from retrain.store.task_store import TaskStore
from retrain.training.progress import Observers

TASK = Path(__file__).parents[1] / "tasks" / "digits.yaml"
DROPS, GROUP = 50, 10
SMALL = ["model.name=mlp", "model.options={}", "training.epochs=0.2", "baseline.refresh.on_miss=false", "gate.margin=1"]

Times = dict[str, list[tuple[float, float]]]


def measure_time(times: Times, what: str, work: Callable[[], object]) -> None:
    """Call `work`, and append its processor time and wall time in seconds to `times`."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    times.setdefault(what, []).append((time.process_time() - cpu, time.perf_counter() - wall))


def retrain_after_each_drop(folder: Path, url: str, endpoint: str | None) -> Times:
    """Commit the drops one by one, retrain after each, and return the times by stage."""
    torch.set_num_threads(1)
    task, store = load_task(str(TASK), SMALL), TaskStore(open_store(url, endpoint), "digits")
    context = Context(store, torch.device("cpu"), folder / "cache", Observers())
    write_digits(folder / "digits")
    staging, times = Staging.parse("share", "+".join(["2"] * DROPS)), Times()
    for part in range(1, DROPS + 1):
        pack(folder / "digits", task, store, staging=staging, part=part)
        measure_time(times, "list and read manifests", lambda: store.drops.all())
        measure_time(times, "read the ledger", lambda: store.ledger.read())
        planned = stages.plan(context, task, Request())
        if not isinstance(planned, Plan):
            raise RuntimeError(planned.reason)
        measure_time(times, "plan", lambda: stages.plan(context, task, Request()))
        prepare(context, planned)  # decodes the new drop into the cache
        measure_time(times, "load and set up", partial(prepare, context, planned))
        measure_time(times, "all stages after planning", partial(stages.run_plan, context, planned))
    return times


def compute_medians(each: list[tuple[float, float]]) -> dict[str, list[float]]:
    """Return the medians of every ten consecutive retrainings, in milliseconds."""
    groups = [each[start : start + GROUP] for start in range(0, len(each), GROUP)]
    return {
        clock: [round(1e3 * sorted(pair[position] for pair in group)[len(group) // 2], 1) for group in groups]
        for position, clock in enumerate(("cpu, ms", "wall, ms"))
    }


def main() -> None:
    """Measure, and print or write the medians as JSON."""
    options = parser(__doc__)
    options.add_argument("--store", help="s3://bucket/prefix (default: a temporary folder)")
    options.add_argument("--endpoint-url", help="address of the S3 server")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="retrain-drops-") as folder:
        times = retrain_after_each_drop(Path(folder), chosen.store or f"{folder}/store", chosen.endpoint_url)
    figures = {what: compute_medians(each) for what, each in times.items()}
    report({"drops": DROPS, "medians of ten retrainings each": figures}, chosen.output)


if __name__ == "__main__":
    main()
