"""Compare the loops of `epochs.py` on a thin network by processor time, for a machine that other programs use too.

Other programs make the wall time of an epoch several times longer, but change its processor time by only a few percent.
One thread computes, because waiting threads would count as busy. DataLoaders have no workers, because the benchmark
does not count the processor time of other processes.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import chain

import torch
from epochs import BATCH, Epoch, by_hand, retrain_epoch
from lib.noise import CPU, Case
from lib.report import parser, report

from retrain.training.hardware import is_bf16_slow, tune_malloc

THIN = Case(16, 32)


def loops(batches: int) -> dict[str, Epoch]:
    """Return the loops, by the names that `epochs.py` gives them."""
    users = partial(by_hand, THIN, batches, augment=True, workers=(0,))
    made = {"users": users(tuned=False), "retrain": retrain_epoch(THIN, batches, bf16=False)}
    if is_bf16_slow(True, CPU):
        return made
    return made | {"tuned": users(tuned=True), "retrain bf16": retrain_epoch(THIN, batches, bf16=True)}


def processor_seconds(epoch: Epoch) -> float:
    """Return the processor time of one epoch."""
    began = time.process_time()
    epoch()
    return time.process_time() - began


def main() -> None:
    """Alternate between the loops, one epoch each, and report their processor time."""
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=9)
    options.add_argument("--batches", type=int, default=4, help="batches per epoch")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    tune_malloc()
    epochs = loops(chosen.batches)
    taken: dict[str, list[float]] = {name: [] for name in epochs}
    for name in chain(*[epochs] * chosen.turns):
        taken[name].append(processor_seconds(epochs[name]))
    costs = {name: statistics.median(each) / chosen.batches / BATCH for name, each in taken.items()}
    figures = {
        "case": THIN.name,
        "microseconds of processor time per image": {name: round(cost * 1e6, 1) for name, cost in costs.items()},
        "times as fast": compare(taken, statistics.median),
        "slowest turn": compare(taken, min),
        "fastest turn": compare(taken, max),
    }
    report(figures, chosen.output)


def compare(taken: dict[str, list[float]], choose: Callable[[list[float]], float]) -> dict[str, float]:
    """Return how many times as fast as the typical loops this project's loops are.

    `choose` selects one of the ratios of all turns, or their median.
    """
    pairs = [(one, other) for one in ("retrain", "retrain bf16") for other in ("users", "tuned")]
    return {
        f"{one} against {other}": round(choose([y / x for x, y in zip(taken[one], taken[other], strict=True)]), 2)
        for one, other in pairs
        if {one, other} <= taken.keys()
    }


if __name__ == "__main__":
    main()
