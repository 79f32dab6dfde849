"""Train on random pixels with random labels, to measure only the speed."""

from typing import NamedTuple

import torch

from retrain.config import Method
from retrain.config.augmentation import Augmentation
from retrain.config.recipe import Cosine, Recipe, recipe_for
from retrain.config.task import Data, Model, Task, Training
from retrain.data.samples import Samples
from retrain.recipe.learning_speed import Counters
from retrain.records import Dataset, DropRef, Origin, Plan
from retrain.training.setup import Parent, Run, set_up

CLASSES = 100
CPU = torch.device("cpu")


class Case(NamedTuple):
    """The width of a ResNet-18, and the width and height of its images in pixels."""

    width: int
    image_size: int

    @property
    def name(self) -> str:
        """Return the name of the case in the results."""
        return f"resnet18 width {self.width}, {self.image_size}x{self.image_size}"


NO_AUGMENTATION = Augmentation()


def plan_of(
    case: Case,
    method: Method,
    samples: int,
    iterations: int,
    training: Training,
    augmentation: Augmentation = NO_AUGMENTATION,
) -> Plan:
    """Return a plan with this number of iterations and one evaluation at its end."""
    task = Task(
        name="benchmark",
        data=Data(image_size=case.image_size, augmentation=augmentation),
        model=Model(options={"width": case.width}),
        training=training,
        recipe=Recipe(preset="paper", schedule=Cosine(scale=1.0)),
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
        dataset=Dataset(drops=(DropRef(id="d", digest="d", samples=samples),), classes=tuple(map(str, range(CLASSES)))),
        recipe=recipe_for(method, task.recipe),
        iterations=iterations,
        evaluate_every=iterations,
        target=None,
        origin=Origin(seed=0, drops=1, classes=CLASSES),
        seed=0,
        reason="benchmark",
    )


def noise(image_size: int, count: int, device: torch.device = CPU) -> Samples:
    """Return samples of random pixels with random labels."""
    images = torch.randint(256, (count, 3, image_size, image_size), dtype=torch.uint8, device=device)
    return Samples.of(images, torch.randint(CLASSES, (count,), device=device), [count])


def run_of(
    case: Case,
    method: Method,
    samples: int,
    iterations: int,
    training: Training | None = None,
    device: torch.device = CPU,
    augmentation: Augmentation = NO_AUGMENTATION,
) -> Run:
    """Return a run on noise that is ready to train. `continuous` continues from an untrained network."""
    data, val = noise(case.image_size, samples, device), noise(case.image_size, 100, device)
    setting = training or Training(save_seconds=1e9)
    scratch = set_up(plan_of(case, "scratch", samples, iterations, setting, augmentation), data, val, None)
    if method == "scratch":
        return scratch
    weights = {name: tensor.clone() for name, tensor in scratch.network.state_dict().items()}
    parent = Parent(weights, Counters.zeros(samples))  # on the CPU, as after reading them from a store
    return set_up(plan_of(case, method, samples, iterations, setting, augmentation), data, val, parent)
