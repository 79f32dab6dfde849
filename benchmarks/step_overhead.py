"""Measure the time that this project's loop adds to a bare loop written by hand.

Both have the same network, batch size, augmentation, penalty and optimizer. They train in one process and alternate,
one iteration each. Other programs on the machine then slow both down alike. The time of this project's loop is all the
time between two of its iterations. It includes bookkeeping, but no evaluation.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from lib.noise import CLASSES, CPU, NO_AUGMENTATION, Case, run_of
from lib.report import parser, report
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

from retrain.config import Method
from retrain.config.augmentation import Augmentation, ColorJitter, RandAugment
from retrain.config.optimizers import AdamW, Optimizer
from retrain.config.recipe import L2Init
from retrain.config.task import Training
from retrain.data.augment import Augment
from retrain.models import factory
from retrain.records import Plan, Point
from retrain.training.loop import run_loop
from retrain.training.progress import Progress
from retrain.training.setup import Run
from retrain.training.transforms import GROUP

SAMPLES = 5000
WARM_UP = 5
CORRECTED = 200
"""Iterations after which BatchNorm's statistics no longer need a correction, and a step is faster."""


PAIRS = {Case(16, 32): 60, Case(16, 8): 300}
"""Number of iterations of each loop, by case. All cases take about the same time."""
MODERN = Augmentation(policy=RandAugment(), color_jitter=ColorJitter(), mixup=0.2)
"""Augmentations that both loops take from torchvision. Both transform groups of the same number of images."""
CUTMIX = Augmentation(cutmix=1.0)
FINE_TUNING = Training(save_seconds=1e9, optimizer=AdamW(), clip_norm=1.0, label_smoothing=0.1, class_weights="inverse")
"""The settings of `--tuning`, with `CUTMIX`."""


class Bare:
    """A plain hand-written loop, with the method's penalty but without its counters."""

    def __init__(self, run: Run) -> None:
        task = run.plan.task
        self.data, self.iterations, self.batch_size = run.train, run.plan.iterations, task.training.batch_size
        network = factory.build_network(task.model, CLASSES, task.data.image_size, seed=0)
        self.network = factory.to_device_channels_last(network, CPU).train()
        objective = run.plan.recipe.objective
        self.strength = objective.strength if isinstance(objective, L2Init) else None
        self.weights = list(self.network.parameters())
        self.anchor = [weight.detach().clone() for weight in self.weights]
        self.peak = task.training.optimizer.learning_rate
        self.optimizer = self._optimizer(task.training.optimizer)
        self.clip, self.smoothing = task.training.clip_norm, task.training.label_smoothing
        self.class_weights = None
        if task.training.class_weights == "inverse":
            counts = torch.bincount(run.train.labels, minlength=CLASSES)
            self.class_weights = len(run.train.labels) / (CLASSES * counts.float())
        self.augment, self.generator = Augment(task.data), torch.Generator().manual_seed(0)
        self.modern = task.data.augmentation == MODERN
        self.change = v2.Compose([v2.RandAugment(2, 9), v2.ColorJitter(0.4, 0.4, 0.4)])
        self.mix: Callable[..., Any] | None = None
        if self.modern:
            self.mix = v2.MixUp(alpha=MODERN.mixup, num_classes=CLASSES)
        elif task.data.augmentation == CUTMIX:
            self.mix = v2.CutMix(alpha=CUTMIX.cutmix, num_classes=CLASSES)
        self.batches = self._batches()
        self.iteration = 0

    def _optimizer(self, setting: Optimizer) -> torch.optim.Optimizer:
        if not isinstance(setting, AdamW):
            return torch.optim.Adam(self.network.parameters(), self.peak, fused=True)
        matrices = [weight for weight in self.weights if weight.ndim > 1]
        others = {"params": [weight for weight in self.weights if weight.ndim <= 1], "weight_decay": 0.0}
        groups = [{"params": matrices, "weight_decay": setting.weight_decay}, others]
        return torch.optim.AdamW(groups, self.peak, fused=True)

    def _batches(self) -> Iterator[Tensor]:
        while True:
            yield from torch.split(torch.randperm(SAMPLES), self.batch_size)[: SAMPLES // self.batch_size]

    def step(self) -> None:
        """Do one iteration."""
        indices = next(self.batches)
        images, targets = self.data.pixels(indices), self.data.labels[indices]
        if self.modern:
            images = torch.cat([self.change(group) for group in torch.split(images, GROUP)])
        images = self.augment(images, self.generator)
        if self.mix:
            images, targets = self.mix(images, targets)
        logits = self.network(images)
        loss = functional.cross_entropy(logits, targets, self.class_weights, label_smoothing=self.smoothing)
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * (1 + math.cos(math.pi * self.iteration / self.iterations)) / 2
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.weights, self.clip, foreach=True)
        if self.strength:
            self._add_l2_init(self.strength)
        self.optimizer.step()
        self.iteration += 1

    @torch.no_grad()
    def _add_l2_init(self, strength: float) -> None:
        for weight, anchor in zip(self.weights, self.anchor, strict=True):
            cast(Tensor, weight.grad).add_(weight - anchor, alpha=2 * strength)


class Moment(NamedTuple):
    """A moment by two clocks, in seconds: wall time and the processor time of this process."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> "Moment":
        """Return the present time of both clocks."""
        return cls(time.perf_counter(), time.process_time())


class Turns:
    """An observer that runs a bare iteration after each iteration of the loop, and records the times of both."""

    def __init__(self, bare: Bare) -> None:
        self.bare = bare
        self.turns: list[tuple[Moment, Moment, Moment]] = []

    def started(self, plan: Plan, progress: Progress) -> None:
        """Record the start of the loop."""
        self.since = Moment.now()

    def stepped(self, progress: Progress) -> None:
        """End the turn of the loop, and do a bare iteration."""
        turned = Moment.now()
        self.bare.step()
        ended = Moment.now()
        self.turns.append((self.since, turned, ended))
        self.since = ended

    def evaluated(self, point: Point) -> None:
        """Do nothing. The only evaluation comes after the last turn."""

    def ended(self, outcome: str, progress: Progress) -> None:
        """Do nothing. The only evaluation comes after the last turn."""


SETTINGS = {
    "crop, flip": (NO_AUGMENTATION, None),
    "RandAugment, colour jitter, mixup": (MODERN, None),
    "AdamW, clipping, label smoothing, class weights, CutMix": (CUTMIX, FINE_TUNING),
}
"""Augmentation and training of each comparison."""


def compare(case: Case, method: Method, settings: str) -> dict[str, object]:
    """Alternate both loops. Return their times and the ratios of the times."""
    augmentation, training = SETTINGS[settings]
    run = run_of(case, method, SAMPLES, PAIRS[case] + WARM_UP, training, augmentation=augmentation)
    turns = Turns(Bare(run))
    run_loop(run, turns, lambda run: None, lambda: False)
    counted = turns.turns[WARM_UP:]
    wall = ratios([[moment.wall for moment in turn] for turn in counted])
    cpu = ratios([[moment.cpu for moment in turn] for turn in counted])
    late = [[moment.cpu for moment in turn] for turn in turns.turns[CORRECTED:]]
    return {
        "case": case.name,
        "method": method,
        "settings": settings,
        "pairs": len(counted),
        "wall": wall,
        "cpu": cpu,
        "cpu_after_200": ratios(late) if late else None,
    }


def ratios(turns: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return the median times of the loop's and of the bare iterations, and their ratios."""
    loop = [turned - began for began, turned, _ in turns]
    bare = [ended - turned for _, turned, ended in turns]
    return {
        "loop_ms": round(1e3 * statistics.median(loop), 3),
        "bare_ms": round(1e3 * statistics.median(bare), 3),
        "ratio_of_medians": round(statistics.median(loop) / statistics.median(bare), 4),
        "median_of_ratios": round(statistics.median(a / b for a, b in zip(loop, bare, strict=True)), 4),
    }


def main() -> None:
    """Compare every case with the methods scratch and continuous, or with other settings only with scratch."""
    plain, modern, tuning = SETTINGS
    options = parser(__doc__)
    options.add_argument("--modern", dest="settings", action="store_const", const=modern, help=f"only with {modern}")
    options.add_argument("--tuning", dest="settings", action="store_const", const=tuning, help=f"only with {tuning}")
    chosen = options.parse_args()
    methods: tuple[Method, ...] = ("scratch",) if chosen.settings else ("scratch", "continuous")
    results = [compare(case, method, chosen.settings or plain) for case in PAIRS for method in methods]
    report({"results": results}, chosen.output)


if __name__ == "__main__":
    main()
