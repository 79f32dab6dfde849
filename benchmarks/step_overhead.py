"""What the loop costs beside a bare one written by hand: same network, batch, augmentation and optimiser.

Both train in one process and take turns, an iteration each, so that whatever else the machine does meets both. The
loop's time is all that passes between two of its iterations, bookkeeping included, evaluation left out.
"""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from lib.report import parser, report
from torch import Tensor
from torch.nn import functional

from retrain import models
from retrain.config import Data, Model, Task, Training
from retrain.data.augment import Augment
from retrain.data.samples import Samples
from retrain.recipe.methods import recipe_of
from retrain.recipe.settings import Cosine, Recipe
from retrain.records import Dataset, DropRef, Origin, Plan, Point
from retrain.training.loop import train
from retrain.training.progress import Progress
from retrain.training.setup import Parent, Run, set_up
from retrain.words import Method

SAMPLES, CLASSES, CPU = 5000, 100, torch.device("cpu")
WARM_UP = 5


class Case(NamedTuple):
    """A network and its images."""

    name: str
    width: int
    image_size: int
    pairs: int


CASES = (Case("resnet18 width 16, 32x32", 16, 32, 60), Case("resnet18 width 16, 8x8", 16, 8, 300))


class Bare:
    """A training loop as somebody would write it by hand, without the method and without keeping count."""

    def __init__(self, run: Run) -> None:
        task = run.plan.task
        self.data, self.iterations, self.batch_size = run.train, run.plan.iterations, task.training.batch_size
        network = models.build(task.model, CLASSES, task.data.image_size, seed=0)
        self.network = models.place(network, CPU).train()
        self.peak = task.training.optimizer.learning_rate
        self.optimizer = torch.optim.Adam(self.network.parameters(), self.peak, fused=True)
        self.augment, self.generator = Augment(task.data), torch.Generator().manual_seed(0)
        self.batches = self._batches()
        self.iteration = 0

    def _batches(self) -> Iterator[Tensor]:
        while True:
            yield from torch.split(torch.randperm(SAMPLES), self.batch_size)[: SAMPLES // self.batch_size]

    def step(self) -> None:
        """Do one iteration."""
        indices = next(self.batches)
        images = self.augment(self.data.pixels(indices), self.generator)
        loss = functional.cross_entropy(self.network(images), self.data.labels[indices])
        self.optimizer.param_groups[0]["lr"] = (
            self.peak * (1 + math.cos(math.pi * self.iteration / self.iterations)) / 2
        )
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.iteration += 1


class Moment(NamedTuple):
    """Wall time passes for others on the machine too; the process's own CPU time does not."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> "Moment":
        """Read both clocks."""
        return cls(time.perf_counter(), time.process_time())


class Turns:
    """An observer of the loop that does a bare iteration after each of the loop's, and notes when each began."""

    def __init__(self, bare: Bare) -> None:
        self.bare = bare
        self.turns: list[tuple[Moment, Moment, Moment]] = []

    def started(self, plan: Plan, progress: Progress) -> None:
        """The loop has its first turn."""
        self.since = Moment.now()

    def stepped(self, progress: Progress) -> None:
        """End the loop's turn, and take the bare one's."""
        turned = Moment.now()
        self.bare.step()
        ended = Moment.now()
        self.turns.append((self.since, turned, ended))
        self.since = ended

    def evaluated(self, point: Point) -> None:
        """Nothing: the one evaluation comes after the last turn."""

    def ended(self, outcome: str, progress: Progress) -> None:
        """Nothing."""


def plan_of(case: Case, method: Method) -> Plan:
    """A plan of as many iterations as there are pairs."""
    task = Task(
        name="overhead",
        data=Data(image_size=case.image_size),
        model=Model(options={"width": case.width}),
        training=Training(save_seconds=1e9),
        recipe=Recipe(schedule=Cosine(scale=1.0)),
    )
    return Plan(
        task=task,
        method=method,
        purpose="trial",
        attempt=0,
        earlier=(),
        retry=0,
        parent="parent" if method == "continuous" else None,
        known=0,
        dataset=Dataset(drops=(DropRef(id="d", digest="d", samples=SAMPLES),), classes=tuple(map(str, range(CLASSES)))),
        recipe=recipe_of(method, task.recipe),
        iterations=case.pairs + WARM_UP,
        evaluate_every=case.pairs + WARM_UP,
        target=None,
        origin=Origin(seed=0, drops=1, classes=CLASSES),
        seed=0,
        reason="benchmark",
    )


def noise(image_size: int, count: int) -> Samples:
    """Random pixels under random labels."""
    images = torch.randint(256, (count, 3, image_size, image_size), dtype=torch.uint8)
    return Samples.of(images, torch.randint(CLASSES, (count,)), [count])


def parent_of(run: Run) -> Parent:
    """A parent to continue from: the run's own start."""
    return Parent({name: tensor.clone() for name, tensor in run.network.state_dict().items()}, run.counters)


def compare(case: Case, method: Method) -> dict[str, object]:
    """Let loop and bare loop take turns."""
    data, val = noise(case.image_size, SAMPLES), noise(case.image_size, 100)
    scratch = set_up(plan_of(case, "scratch"), data, val, None)
    run = scratch if method == "scratch" else set_up(plan_of(case, method), data, val, parent_of(scratch))
    turns = Turns(Bare(run))
    train(run, turns, lambda run: None, lambda: False)
    counted = turns.turns[WARM_UP:]
    wall = ratios([[moment.wall for moment in turn] for turn in counted])
    cpu = ratios([[moment.cpu for moment in turn] for turn in counted])
    return {"case": case.name, "method": method, "pairs": len(counted), "wall": wall, "cpu": cpu}


def ratios(turns: Sequence[Sequence[float]]) -> dict[str, float]:
    """Medians of the loop's turns and of the bare ones, and how they compare."""
    loop = [turned - began for began, turned, _ in turns]
    bare = [ended - turned for _, turned, ended in turns]
    return {
        "loop_ms": round(1e3 * statistics.median(loop), 3),
        "bare_ms": round(1e3 * statistics.median(bare), 3),
        "ratio_of_medians": round(statistics.median(loop) / statistics.median(bare), 4),
        "median_of_ratios": round(statistics.median(a / b for a, b in zip(loop, bare, strict=True)), 4),
    }


def main() -> None:
    """Compare every case under scratch and continuous."""
    options = parser(__doc__).parse_args()
    methods: tuple[Method, ...] = ("scratch", "continuous")
    report({"results": [compare(case, method) for case in CASES for method in methods]}, options.output)


if __name__ == "__main__":
    main()
