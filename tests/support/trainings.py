"""Make trainings that take a second: plans, samples that can be learnt, and a store for both."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from retrain.config import Method
from retrain.config.optimizers import Optimizer
from retrain.config.recipe import Cosine, Recipe, recipe_for
from retrain.config.task import Data, Model, Task, Training
from retrain.data.dataset import make_dataset
from retrain.data.packing import pack
from retrain.data.samples import Samples
from retrain.data.staging import Staging
from retrain.pipeline.context import Context
from retrain.pipeline.train import train_plan
from retrain.records import Dataset, DropRef, Origin, Plan, Point, Target
from retrain.store import LocalStore
from retrain.store.task_store import TaskStore
from retrain.training.progress import Progress
from retrain.training.setup import Parent, Run, set_up

SIZE = 8
CPU = torch.device("cpu")


def dropout_net(classes: int, image_size: int) -> nn.Module:
    """Return a network with everything that a checkpoint must contain: convolutions, running statistics and dropout."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(8 * image_size**2, classes),
    )


TASK = Task(
    name="pets",
    data=Data(image_size=SIZE, crop_padding=1, val_share=0.2, test_share=0.2),
    model=Model(name=f"{__name__}:dropout_net"),
    training=Training(epochs=8, batch_size=32, evaluate_every=1, save_seconds=0),
    recipe=Recipe(preset="paper", schedule=Cosine(scale=0.5)),
)


FACTORIES = frozenset({TASK.model.name})


def task_with(recipe: Recipe, optimizer: Optimizer, bf16: bool = False) -> Task:
    """Return the task with this recipe and optimizer."""
    training = TASK.training.model_copy(update={"optimizer": optimizer, "bf16": bf16})
    return TASK.model_copy(update={"recipe": recipe, "training": training})


class RecordingObserver:
    """An observer that keeps all events."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.stepped_to: list[int] = []
        self.outcome: str | None = None

    def started(self, plan: Plan, progress: Progress) -> None:
        pass

    def stepped(self, progress: Progress) -> None:
        self.stepped_to.append(progress.iteration)

    def evaluated(self, point: Point) -> None:
        self.points.append(point)

    def ended(self, outcome: str, progress: Progress) -> None:
        self.outcome = outcome


def pixels(labels: Tensor, seed: int) -> Tensor:
    """Return noisy images in the colours of their classes, uint8 [N, 3, SIZE, SIZE]."""
    colours = torch.randint(96, 160, (100, 3, 1, 1), generator=torch.Generator().manual_seed(0))
    noise = torch.randn(len(labels), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 60
    return (colours[labels] + noise).clamp(0, 255).to(torch.uint8)


def samples(sizes: Sequence[int], classes: int, seed: int = 1) -> Samples:
    """Return samples of drops of these sizes. Their labels alternate."""
    labels = torch.arange(sum(sizes)) % classes
    return Samples.of(pixels(labels, seed), labels, sizes)


def plan_of(
    task: Task = TASK,
    method: Method = "scratch",
    sizes: Sequence[int] = (160,),
    classes: int = 5,
    known: int = 0,
    parent: str | None = None,
    origin: Origin | None = None,
    target: float | None = None,
) -> Plan:
    """Return a plan as `planning` would make it. The recipe sets the length of its schedule."""
    recipe = recipe_for(method, task.recipe)
    drops = tuple(DropRef(id=f"d-{k}", digest=f"{k}", samples=size) for k, size in enumerate(sizes))
    grid = sum(sizes) // task.training.batch_size
    return Plan(
        task=task,
        method=method,
        purpose="retrain",
        attempt=0,
        earlier=(),
        retry=0,
        parent=parent,
        known=known,
        dataset=Dataset(drops=drops, classes=tuple(f"class-{k}" for k in range(classes))),
        recipe=recipe,
        iterations=round(task.training.epochs * grid * float(recipe.schedule.scale)),
        evaluate_every=grid,
        target=target_at(target) if target is not None else None,
        origin=origin or Origin(seed=task.seed, drops=len(drops), classes=classes),
        seed=task.seed,
        reason="a test",
    )


def target_at(accuracy: float) -> Target:
    """Return the target L_100 of a baseline with this accuracy."""
    return Target(
        level=100,
        accuracy=accuracy,
        baseline_run="scratch-0",
        baseline_accuracy=accuracy,
        baseline_iterations=100,
        baseline_reached_at={"99": 90, "100": 100},
        provenance="measured",
        age=0,
    )


def run_of(plan: Plan, parent: Parent | None = None) -> Run:
    """Return the plan's run, set up with samples that match the plan."""
    classes, sizes = len(plan.dataset.classes), [drop.samples for drop in plan.dataset.drops]
    return set_up(plan, samples(sizes, classes), samples([100], classes, seed=2), parent)


def context_of(folder: Path, observer: RecordingObserver | None = None) -> Context:
    """Return a context on the CPU whose store is in a folder."""
    return Context(
        TaskStore(LocalStore(folder / "store"), TASK.name),
        CPU,
        folder / "cache",
        observer or RecordingObserver(),
        factories=FACTORIES,
    )


def commit_drops(folder: Path) -> None:
    """Pack images of five classes into the store, as two drops with three and two classes."""
    labels = torch.arange(250) % 5
    for number, image in enumerate(pixels(labels, seed=3)):
        path = folder / "images" / f"class-{labels[number]}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    for part in (1, 2):
        pack(folder / "images", TASK, context_of(folder).store, staging=Staging.parse("classes", "3+2"), part=part)


def stored_plan(folder: Path, drops: int, parent: Plan | None = None, task: Task = TASK) -> Plan:
    """Plan a scratch run on the store's first drops, or a continuous run from a parent, and write the plan into the
    store.
    """
    context = context_of(folder)
    dataset = make_dataset(context.store.drops.all()[:drops])
    plan = plan_of(task, "continuous" if parent else "scratch", sizes=[drop.samples for drop in dataset.drops])
    own = Origin(seed=plan.seed, drops=drops, classes=len(dataset.classes))
    lineage = {"parent": parent.run_id, "known": len(parent.dataset.drops)} if parent else {}
    plan = plan.model_copy(update={"dataset": dataset, "origin": parent.origin if parent else own, **lineage})
    context.files(plan.run_id).write_plan(plan)
    return plan


def states_in(folder: Path) -> list[str]:
    """Return the keys of all checkpoints in the store."""
    entries = context_of(folder).store.objects.list(f"{TASK.name}/runs/")
    return [entry.key for entry in entries if "/state/" in entry.key]


def train_in(folder: Path, plan: Plan) -> None:
    """Train a plan on one thread in this process."""
    torch.set_num_threads(1)
    train_plan(context_of(folder), plan)
