"""Compare streamed training with its two parts alone: decoding, and computing on samples in memory.

Both parts work on the same cores. With a given number of threads, an iteration takes at least as long as the longest of
three times: computing alone, decoding alone at its best, and the processor time of both divided by the cores. The
longest of these is `allowed`. Two kinds of training are compared with the smallest `allowed`: training with 1, 2, ...
threads and 0, 1, 2 decoding processes, and training that chooses these numbers itself. There are two cases: icons, with
a network that takes most of the time, and photographs. Photographs take longer to decode than to train on. All
trainings alternate. Each starts with empty queues. malloc keeps freed memory, as in runs.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from lib.noise import Case, plan_of
from lib.pictures import commit, icons, photographs
from lib.report import parser, report
from lib.splits import CachedDrop

from retrain.config.task import Stream, Training
from retrain.data.shards import Encoded
from retrain.store import LocalStore
from retrain.store.task_store import TaskStore
from retrain.training.hardware import tune_malloc, use_threads
from retrain.training.loop import train_step
from retrain.training.setup import Run, set_up

IMAGES, WARM_UP = 3000, 10
CORES = len(os.sched_getaffinity(0))
WORKERS = (0, 1, 2)
DEFAULT = ("training, default threads and workers", 0, 0)


class Source(NamedTuple):
    """Images, the network that is trained on them, and the number of iterations in a turn."""

    name: str
    case: Case
    samples: Callable[[int], Iterator[Encoded]]
    iterations: int


SOURCES = (
    Source("icons, 32x32 PNG", Case(8, 32), icons, 10),
    Source("photographs, 480x480 JPEG", Case(8, 16), photographs, 15),
)


class Cost(NamedTuple):
    """Seconds for one iteration."""

    wall: float
    processor: float
    """Processor time of this process."""


def timed(work: Callable[[], object], iterations: int) -> Cost:
    """Return the mean cost of an iteration after a warm-up."""
    for _ in range(WARM_UP):
        work()
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(iterations):
        work()
    return Cost((time.perf_counter() - wall) / iterations, (time.process_time() - processor) / iterations)


class Bench:
    """The samples of one source, streamed and in memory."""

    def __init__(self, source: Source, folder: Path) -> None:
        self.iterations, self.plan = source.iterations, plan_of(source.case, "scratch", IMAGES, 1000, Training())
        store = LocalStore(folder / "store")
        drop = commit(
            self.plan.task, TaskStore(store, self.plan.task.name), folder, source.samples(IMAGES), shard_bytes=500_000
        )
        self.cached = CachedDrop(drop, store, source.case.image_size, folder / "cache")

    def in_memory(self) -> Run:
        """Return a run that trains on samples in memory."""
        splits = self.cached.in_memory()
        return set_up(self.plan, splits["train"], splits["val"], None)

    def streaming(self, workers: int | None) -> Run:
        """Return a run that trains on a stream, with this number of decoding workers or its default."""
        setting = Stream(workers=workers)
        data = self.plan.task.data.model_copy(update={"stream": setting})
        plan = self.plan.model_copy(update={"task": self.plan.task.model_copy(update={"data": data})})
        splits = self.cached.streamed(setting)
        return set_up(plan, splits["train"], splits["val"], None)

    def decoding(self, workers: int) -> Cost:
        """Return the cost of decoding without training."""
        torch.set_num_threads(1)
        loader = self.streaming(workers).loader
        try:
            return timed(loader.next, self.iterations)
        finally:
            loader.close()

    def computing(self, threads: int) -> Cost:
        """Return the cost of training on samples in memory."""
        torch.set_num_threads(threads)
        return timed(partial(train_step, self.in_memory()), self.iterations)

    def training(self, threads: int, workers: int) -> Cost:
        """Return the cost of training on the stream."""
        torch.set_num_threads(threads)
        return self._stepping(self.streaming(workers))

    def default(self) -> Cost:
        """Return the cost of training on the stream with the settings that `retrain` chooses."""
        torch.set_num_threads(CORES)
        run = self.streaming(None)
        with use_threads(run.threads):
            return self._stepping(run)

    def _stepping(self, run: Run) -> Cost:
        try:
            return timed(partial(train_step, run), self.iterations)
        finally:
            run.loader.close()


def median_ms(costs: list[Cost]) -> Cost:
    """Return the median cost in milliseconds, rounded to tenths."""
    return Cost(*(round(1e3 * statistics.median(each), 1) for each in zip(*costs, strict=True)))


def measure(source: Source, rounds: int) -> dict[str, object]:
    """Alternate between all trainings. Return their median times, compared with the time that the parts allow."""
    threads = range(1, CORES + 1)
    with tempfile.TemporaryDirectory(prefix="retrain-streamed-") as folder:
        bench = Bench(source, Path(folder))
        turns: dict[tuple[str, int, int], Callable[[], Cost]] = {
            **{("decoding", 1, workers): partial(bench.decoding, workers) for workers in WORKERS},
            **{("computing", count, 0): partial(bench.computing, count) for count in threads},
            **{("training", *how): partial(bench.training, *how) for how in product(threads, WORKERS)},
            DEFAULT: bench.default,
        }
        taken = [{what: turn() for what, turn in turns.items()} for _ in range(rounds)]
    costs = {what: median_ms([round_[what] for round_ in taken]) for what in turns}
    allowed = {count: allowed_ms(costs, count) for count in threads}
    ratios = {what: round(allowed[what[1]] / costs[what].wall, 3) for what in turns if what[0] == "training"}
    ratios[DEFAULT] = round(min(allowed.values()) / costs[DEFAULT].wall, 3)
    return {
        "case": f"{source.name}, {source.case.name}",
        "wall_ms": {name_turn(*what): cost.wall for what, cost in costs.items()},
        "processor_ms": {name_turn(*what): cost.processor for what, cost in costs.items()},
        "allowed_ms": {f"{count} threads": allowed[count] for count in threads},
        "allowed_over_wall": {name_turn(*what): ratio for what, ratio in ratios.items()},
    }


def allowed_ms(costs: dict[tuple[str, int, int], Cost], threads: int) -> float:
    """Return the shortest possible time of an iteration with this number of threads, in milliseconds."""
    alone = costs["computing", threads, 0]
    decoding = min(costs["decoding", 1, workers].wall for workers in WORKERS)
    both = (alone.processor + costs["decoding", 1, 0].processor) / CORES
    return round(max(decoding, alone.wall, both), 1)


def name_turn(what: str, threads: int, workers: int) -> str:
    """Return the name of a turn in the results."""
    return f"{what}, {threads} threads, {workers} workers" if threads else what


def main() -> None:
    """Measure every source."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    tune_malloc()
    report({"images": IMAGES, "results": [measure(source, chosen.rounds) for source in SOURCES]}, chosen.output)


if __name__ == "__main__":
    main()
