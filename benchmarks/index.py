"""The learning-speed index at 1, 10 and 100 million samples: its bytes, adding a run's to its parent's, the thinned
ends, and drawing a pass.

Every size runs in a process of its own, whose peak memory the kernel tells. The counters are random, as after a run of
thirty epochs. Passes: of uniform sampling, and of the recipe's, in nanoseconds for each sample of the dataset.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import torch
from lib.report import parser, report
from safetensors.torch import save

from retrain.recipe.learning_speed import Counters, add, from_tensors, to_tensors
from retrain.recipe.sampling import draw_pass, keep_probability
from retrain.recipe.settings import EasyHard

SIZES = (1_000_000, 10_000_000, 100_000_000)


def counters(n: int, seed: int) -> Counters:
    """Counters as a run of thirty epochs leaves them."""
    drawn = torch.Generator().manual_seed(seed)
    counted = Counters.zeros(n)
    counted.seen.random_(20, 31, generator=drawn)
    counted.correct.random_(0, 20, generator=drawn)
    counted.loss.exponential_(1, generator=drawn)
    return counted


Result = TypeVar("Result")


class Timed(NamedTuple, Generic[Result]):
    """What some work gave, and its seconds: wall time passes for others on the machine too, processor time does not."""

    result: Result
    wall: float
    cpu: float

    def seconds(self) -> dict[str, float]:
        """Both, rounded."""
        return {"wall": round(self.wall, 3), "cpu": round(self.cpu, 3)}

    def each(self, n: int) -> dict[str, float]:
        """Both for each of n samples, in nanoseconds."""
        return {"wall": round(1e9 * self.wall / n, 1), "cpu": round(1e9 * self.cpu / n, 1)}


def timed(work: Callable[[], Result]) -> Timed[Result]:
    """Do it."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return Timed(result, time.perf_counter() - wall, time.process_time() - cpu)


def bytes_of(counted: Counters) -> int:
    """What the counters hold in memory."""
    return sum(column.nbytes for column in (counted.seen, counted.correct, counted.loss))


def index(n: int) -> tuple[dict[str, object], Counters]:
    """Figures of the index alone, and a parent's, as loaded."""
    own, parent = counters(n, 0), from_tensors(to_tensors(counters(n, 1)))
    figures = {
        "samples": n,
        "bytes a sample, counting": bytes_of(own) / n,
        "bytes a sample, loaded": bytes_of(parent) / n,
        "bytes a sample, on disk": round(len(save(to_tensors(counters(100_000, 2)))) / 100_000, 2),
        "adding, s": timed(lambda: add(parent, own, 0.5)).seconds(),
    }
    return figures, parent


def measure(n: int) -> dict[str, object]:
    """One size, in this process."""
    figures, parent = index(n)
    thinned = timed(lambda: keep_probability(EasyHard(), parent, torch.ones(n, dtype=torch.bool)))
    drawn = torch.Generator().manual_seed(0)
    return {
        **figures,
        "finding the ends, s": thinned.seconds(),
        "a thinned pass, ns a sample": timed(lambda: len(draw_pass(thinned.result, n, drawn))).each(n),
        "a uniform pass, ns a sample": timed(lambda: len(draw_pass(None, n, drawn))).each(n),
        "peak memory, MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
    }


def main() -> None:
    """Measure each size in a process of its own."""
    options = parser(__doc__)
    options.add_argument("--size", type=int, help="measure this size in this process, and print it")
    chosen = options.parse_args()
    if chosen.size:
        print(json.dumps(measure(chosen.size)))
        return
    commands = [[sys.executable, __file__, "--size", str(size)] for size in SIZES]
    outputs = [subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout for command in commands]
    report({"sizes": [json.loads(output) for output in outputs]}, chosen.output)


if __name__ == "__main__":
    main()
