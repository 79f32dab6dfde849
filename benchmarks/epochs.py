"""Compare the time of an epoch in three training loops: this project's, a typical PyTorch loop, and a published one.

- `users`: a DataLoader, torchvision's v2 transforms for each sample, and L2-init as a term of the loss.
- `tuned`: the same with the faster settings channels_last and bfloat16.
- `script`: no augmentation and no penalty, as in the published script of Ash & Adams (warm start).
- `retrain` and `retrain bf16`: this project's loop with the method `continuous`, without and with `training.bf16`.

The first three loops try DataLoaders with 0, 1 and 2 workers, and use the fastest. On a CPU without instructions for
bfloat16, bfloat16 is several times slower than float32. There, `tuned` and `retrain bf16` are left out.

All loops train a ResNet-18 with fused Adam on images in memory. They alternate after each epoch in one process, and
only the workers of the current loop are busy. Other programs on the machine then slow all loops down alike. This
project's runs configure malloc to keep freed memory. The other loops in this process benefit from this, too.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from typing import Any

import torch
from lib.limit import limit
from lib.noise import CLASSES, CPU, Case, noise, run_of
from lib.report import parser, report
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from retrain.config.task import Model, Training
from retrain.data.samples import Samples
from retrain.models import factory
from retrain.training.hardware import is_bf16_slow, tune_malloc
from retrain.training.loop import train_step

BATCH, STRENGTH = 128, 0.01
WORKERS = (0, 1, 2)
MATRIX = 2048
"""Rows and columns of the matrices whose multiplication measures the machine's speed limit."""
NORMALIZE = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)]

Epoch = Callable[[], None]


class Images(Dataset[tuple[Tensor, Tensor]]):
    """A dataset that transforms its samples one by one."""

    def __init__(self, samples: Samples, transform: v2.Compose) -> None:
        self.images, self.labels, self.transform = samples.pixels(torch.arange(len(samples))), samples.labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[number]), self.labels[number]


def by_hand(
    case: Case,
    batches: int,
    augment: bool,
    tuned: bool,
    batch: int = BATCH,
    workers: Iterable[int] = WORKERS,
    device: torch.device = CPU,
) -> Epoch:
    """Return a function that trains an epoch in a plain loop: `users` or `tuned` if `augment`, else `script`."""
    order = torch.channels_last if tuned else torch.contiguous_format
    model = Model(options={"width": case.width})
    network = factory.build_network(model, CLASSES, case.image_size, seed=0).train().to(device).to(memory_format=order)
    first = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = torch.optim.Adam(network.parameters(), 0.001, fused=True)
    padded = [v2.RandomCrop(case.image_size, padding=4), v2.RandomHorizontalFlip()] if augment else []
    data = Images(noise(case.image_size, batches * batch), v2.Compose([*padded, *NORMALIZE]))

    def epoch(loader: "DataLoader[Any]") -> None:
        for images, labels in loader:
            images = images.to(device, non_blocking=True, memory_format=order)
            labels = labels.to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=tuned):
                loss = functional.cross_entropy(network(images), labels)
            if augment:
                pairs = zip(network.parameters(), first, strict=True)
                loss = loss + STRENGTH * torch.stack([(weight - start).square().sum() for weight, start in pairs]).sum()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        loss.item()  # waits until the device has finished the last batch

    return fastest([partial(epoch, loader_of(data, batch, each, device)) for each in workers])


def loader_of(data: Images, batch: int, workers: int, device: torch.device) -> "DataLoader[Any]":
    """Return a DataLoader whose workers stay alive between epochs."""
    return DataLoader(
        data,
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )


def fastest(epochs: list[Epoch]) -> Epoch:
    """Run each epoch once, after one untimed epoch, and return the fastest."""
    epochs[0]()
    return min(epochs, key=seconds)


def retrain_epoch(case: Case, batches: int, bf16: bool) -> Epoch:
    """Return a function that trains an epoch in this project's loop."""
    run = run_of(case, "continuous", batches * BATCH, 1000 * batches, Training(bf16=bf16, batch_size=BATCH))

    def epoch() -> None:
        for _ in range(batches):
            train_step(run)

    epoch()
    return epoch


Loops = dict[str, Callable[[Case, int], Epoch]]

FLOAT32: Loops = {
    "users": partial(by_hand, augment=True, tuned=False),
    "script": partial(by_hand, augment=False, tuned=False),
    "retrain": partial(retrain_epoch, bf16=False),
}
BFLOAT16: Loops = {
    "tuned": partial(by_hand, augment=True, tuned=True),
    "retrain bf16": partial(retrain_epoch, bf16=True),
}


def seconds(epoch: Epoch) -> float:
    """Return the wall time of one epoch."""
    began = time.perf_counter()
    epoch()
    return time.perf_counter() - began


def compare(case: Case, batches: int, turns: int, bfloat16: bool) -> dict[str, object]:
    """Alternate between the loops, one epoch with this number of batches each, and return the speeds."""
    loops = {**FLOAT32, **BFLOAT16} if bfloat16 else FLOAT32
    machine = limit(case, MATRIX, CPU, torch.float32).speed
    epochs = {name: prepare(case, batches) for name, prepare in loops.items()}
    taken: dict[str, list[float]] = {name: [] for name in loops}
    for name in chain(*[loops] * turns):
        taken[name].append(seconds(epochs[name]))
    speeds = {name: batches * BATCH / statistics.median(each) for name, each in taken.items()}
    return {
        "case": case.name,
        "images per second": {name: round(speed, 1) for name, speed in speeds.items()},
        "limit, images per second": round(machine, 1),
        "share of the limit": {name: round(speeds[name] / machine, 3) for name in FLOAT32},
        "times as fast": {
            f"{one} against {other}": ratio(taken[other], taken[one])
            for one in ("retrain", "retrain bf16")
            for other in ("users", "tuned", "script")
            if {one, other} <= loops.keys()
        },
    }


def ratio(other: list[float], retrain: list[float]) -> float:
    """Return how many times as fast as the other loop this project's loop is, as the median over the turns."""
    return round(statistics.median(slow / fast for slow, fast in zip(other, retrain, strict=True)), 2)


def main() -> None:
    """Compare on a thin ResNet-18 and on a full one."""
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=3)
    options.add_argument(
        "--batches", type=int, default=8, help="batches per epoch of the thin network; the full network gets a quarter"
    )
    chosen = options.parse_args()
    tune_malloc()
    bfloat16 = not is_bf16_slow(True, CPU)
    thin = compare(Case(16, 32), chosen.batches, chosen.turns, bfloat16)
    full = compare(Case(64, 32), max(1, chosen.batches // 4), chosen.turns, bfloat16)
    report({"bfloat16": bfloat16, "results": [thin, full]}, chosen.output)


if __name__ == "__main__":
    main()
