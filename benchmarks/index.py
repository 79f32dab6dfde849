"""Measure the learning-speed index at 1, 10 and 100 million samples: size, addition, and drawing an epoch.

The addition adds a run's counters to its parent's counters. `finding the ends` is the search for the easiest and
hardest samples, which the recipe's easy/hard sampling draws less often. Every size is measured in a separate process
with one thread. The counters are random, as after a run of thirty epochs. Epochs are drawn in three ways: `uniform`,
`thinned` (by easy/hard sampling), and `thinned` over shards of 10,000 samples. 32 of these shards are shuffled
together. Drawing is measured in nanoseconds per sample of the dataset. Memory is the peak beyond the memory of the
index, in bytes per sample.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
from lib.report import parser, report
from lib.spent import spent
from safetensors.torch import save
from torch import Tensor

from retrain.config.recipe import EasyHard
from retrain.data.stream.order import window_shuffle
from retrain.recipe.learning_speed import Counters, add_decayed, from_tensors, to_tensors
from retrain.recipe.sampling import draw_epoch, keep_probability

SIZES = (1_000_000, 10_000_000, 100_000_000)
SHARD, WINDOW = 10_000, 32


def counters(n: int, seed: int) -> Counters:
    """Return random counters, as after a run of thirty epochs."""
    drawn = torch.Generator().manual_seed(seed)
    counted = Counters.zeros(n)
    counted.seen.random_(20, 31, generator=drawn)
    counted.correct.random_(0, 20, generator=drawn)
    counted.loss.exponential_(1, generator=drawn)
    return counted


def bytes_of(counted: Counters) -> int:
    """Return the memory of the counters, in bytes."""
    return sum(column.nbytes for column in (counted.seen, counted.correct, counted.loss))


def index(n: int) -> tuple[dict[str, object], Counters]:
    """Return the sizes of a learning-speed index and the time to add two indexes, and the parent's index."""
    own, parent = counters(n, 0), from_tensors(to_tensors(counters(n, 1)))
    figures = {
        "samples": n,
        "bytes a sample, counting": bytes_of(own) / n,
        "bytes a sample, loaded": bytes_of(parent) / n,
        "bytes a sample, on disk": round(len(save(to_tensors(counters(100_000, 2)))) / 100_000, 2),
        "adding, s": spent(lambda: add_decayed(parent, own, 0.5)).seconds(),
    }
    return figures, parent


def draw_epochs(probability: Tensor | None, n: int) -> dict[str, object]:
    """Return the time and memory of drawing an epoch of each kind."""
    drawn, shards = torch.Generator().manual_seed(0), partial(window_shuffle, counts=torch.full((n // SHARD,), SHARD))
    works: dict[str, Callable[[], Tensor]] = {
        "a thinned epoch": lambda: draw_epoch(probability, n, drawn),
        "a uniform epoch": lambda: draw_epoch(None, n, drawn),
        "a thinned epoch over shards": lambda: draw_epoch(probability, n, drawn, partial(shards, window=WINDOW)),
    }
    figures = dict[str, object]()
    for name, work in works.items():
        drawing = spent(work)
        figures |= {f"{name}, ns a sample": drawing.each(n), f"{name}, bytes a sample": drawing.bytes_each(n)}
    return figures


def measure(n: int) -> dict[str, object]:
    """Return all measurements of one size, made in this process."""
    torch.set_num_threads(1)
    figures, parent = index(n)
    thinned = spent(lambda: keep_probability(EasyHard(), parent, torch.ones(n, dtype=torch.bool)))
    return {
        **figures,
        "finding the ends, s": thinned.seconds(),
        "finding the ends, bytes a sample": thinned.bytes_each(n),
        **draw_epochs(thinned.result, n),
    }


def main() -> None:
    """Measure each size in a separate process."""
    options = parser(__doc__)
    options.add_argument("--size", type=int, help="measure this size in this process, and print the results")
    chosen = options.parse_args()
    if chosen.size:
        print(json.dumps(measure(chosen.size)))
        return
    commands = [[sys.executable, __file__, "--size", str(size)] for size in SIZES]
    outputs = [subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout for command in commands]
    report({"sizes": [json.loads(output) for output in outputs]}, chosen.output)


if __name__ == "__main__":
    main()
