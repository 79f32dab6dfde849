"""Images a second of training, beside what people would write, and beside the published warm-start script's way.

`users`: a DataLoader, torchvision's v2 transforms on each sample, L2-init as a term of the loss, and the loss read off
in every iteration. `script`: the same without augmentation and penalty, as Ash & Adams' script trains. `retrain`: this
project's loop under `continuous`. All train the same network by Adam on the same images, and take turns of some
iterations each, so that whatever else the machine does meets all. The DataLoader has no workers: they would work on
during the others' turns.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lib.report import parser, report
from step_overhead import CLASSES, SAMPLES, Case, noise, parent_of, plan_of
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from retrain import models
from retrain.data.samples import Samples
from retrain.training.loop import step
from retrain.training.setup import set_up

BATCH, STRENGTH = 128, 0.01
NORMALIZE = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)]
AUGMENT = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()]


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Samples transformed one by one."""

    def __init__(self, samples: Samples, transform: v2.Compose) -> None:
        self.images, self.labels, self.transform = samples.pixels(torch.arange(len(samples))), samples.labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[number]), self.labels[number]


def endless(loader: "DataLoader[Any]") -> Iterator[Any]:
    """Yield batches, epoch after epoch."""
    while True:
        yield from loader


def by_hand(case: Case, data: Samples, augment: bool) -> Callable[[], object]:
    """Return an iteration of a script: the users' with augmentation and penalty, else the warm-start script's."""
    plan = plan_of(case, "continuous")
    network = models.build(plan.task.model, CLASSES, case.image_size, seed=0).train()
    first = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = torch.optim.Adam(network.parameters(), 0.001)
    transform = v2.Compose([*AUGMENT, *NORMALIZE] if augment else NORMALIZE)
    batches = endless(DataLoader(Images(data, transform), BATCH, shuffle=True, drop_last=True))

    def iteration() -> float:
        images, labels = next(batches)
        loss = functional.cross_entropy(network(images), labels)
        if augment:
            pairs = zip(network.parameters(), first, strict=True)
            loss = loss + STRENGTH * torch.stack([(ours - start).square().sum() for ours, start in pairs]).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        return loss.item()

    return iteration


def compare(case: Case, turn: int, turns: int) -> dict[str, object]:
    """Let all take turns of `turn` iterations."""
    data, val = noise(case.image_size, SAMPLES), noise(case.image_size, 100)
    start = set_up(plan_of(case, "scratch"), data, val, None)
    run = set_up(plan_of(case, "continuous"), data, val, parent_of(start))
    ways: dict[str, Callable[[], object]] = {
        "users": by_hand(case, data, augment=True),
        "script": by_hand(case, data, augment=False),
        "retrain": lambda: step(run),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for way in list(ways) * (turns + 1):
        began = time.perf_counter()
        for _ in range(turn):
            ways[way]()
        seconds[way].append(time.perf_counter() - began)
    speeds = {way: turn * BATCH / statistics.median(each[1:]) for way, each in seconds.items()}
    ratios = {f"retrain against {way}": ratio(seconds[way][1:], seconds["retrain"][1:]) for way in ("users", "script")}
    return {"case": case.name, "images_per_second": {way: round(speed, 1) for way, speed in speeds.items()}, **ratios}


def ratio(theirs: list[float], ours: list[float]) -> float:
    """How many times as fast ours is, turn by turn: the median."""
    return round(statistics.median(one / other for one, other in zip(theirs, ours, strict=True)), 2)


def main() -> None:
    """Compare on a thin ResNet-18 and on a full one."""
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=5)
    chosen = options.parse_args()
    thin = compare(Case("resnet18 width 16, 32x32", 16, 32, 10_000), 4, chosen.turns)
    full = compare(Case("resnet18 width 64, 32x32", 64, 32, 10_000), 1, chosen.turns)
    report({"results": [thin, full]}, chosen.output)


if __name__ == "__main__":
    main()
