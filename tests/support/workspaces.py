"""Provide a small task on real images. A drop is packed, trained on, evaluated and promoted in one or two seconds."""

from pathlib import Path

import torch
from PIL import Image

from retrain.config.task import Task
from retrain.data.packing import pack
from retrain.pipeline import stages
from retrain.pipeline.context import Context
from retrain.pipeline.planning import Request
from retrain.records import Drop, Plan, RunRecord
from retrain.store import ObjectStore
from retrain.store.task_store import TaskStore
from support.trainings import CPU, SIZE, RecordingObserver, pixels

EACH = 40
"""Images in a class."""
PACKED: dict[tuple[tuple[int, ...], int, bool], tuple[Drop, dict[str, bytes]]] = {}
"""The first drops of stores, and the objects of these stores, by the arguments of `Workspace.draw`."""


def make_task(**parts: object) -> Task:
    """Return a task with a linear classifier on images in the colours of their classes.

    Runs continue from their parent's weights without shrinking them.
    """
    settings: dict[str, object] = {
        "name": "pets",
        "data": {"image_size": SIZE, "crop_padding": 0, "flip": False, "val_share": 0.25, "test_share": 0.25},
        "model": {"name": "logistic"},
        "training": {
            "epochs": 6,
            "batch_size": 16,
            "evaluate_every": 1,
            "optimizer": {"name": "adam", "learning_rate": 0.003},
        },
        "recipe": {"preset": "paper", "initialization": {"name": "warm"}, "objective": {"name": "none"}},
        "baseline": {"refresh": {"on_miss": True}},
        "gate": {"margin": 0.2},
    }
    return Task.model_validate(settings | parts)


class Workspace:
    """A task's store, a context for its runs, and a folder for images."""

    def __init__(self, objects: ObjectStore, folder: Path) -> None:
        self.folder, self.store = folder, TaskStore(objects, "pets")
        self.context = Context(self.store, CPU, folder / "cache", RecordingObserver())

    def land(self, *classes: int, seed: int = 0, mislabelled: bool = False) -> Drop:
        """Commit a drop with the images of `draw`.

        The first drop of a store is packed once for each of its contents. Other stores get copies of its objects. Tests
        of the packing itself call `pack`.
        """
        if next(self.store.objects.list(), None):
            return self.pack(*classes, seed=seed, mislabelled=mislabelled)
        if (drawn := (classes, seed, mislabelled)) not in PACKED:
            PACKED[drawn] = self.pack(*classes, seed=seed, mislabelled=mislabelled), self.contents()
            return PACKED[drawn][0]
        drop, objects = PACKED[drawn]
        for key in sorted(objects, key=self.store.keys.manifest(drop.id).__eq__):  # the manifest is written last
            self.store.objects.write(key, objects[key])
        return drop

    def pack(self, *classes: int, seed: int = 0, mislabelled: bool = False) -> Drop:
        """Pack and commit a drop with the images of `draw`."""
        return pack(self.draw(*classes, seed=seed, mislabelled=mislabelled), make_task(), self.store)[0].drop

    def draw(self, *classes: int, seed: int = 0, mislabelled: bool = False) -> Path:
        """Write images of these classes, and return their folder.

        If `mislabelled`, each image is in the folder of the next class.
        """
        labels = torch.tensor(classes).repeat_interleave(EACH)
        images = pixels(labels.roll(EACH) if mislabelled else labels, seed)
        source = self.folder / f"drop-{seed}"
        for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            path = source / f"class-{label}" / f"{seed}-{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
        return source

    def contents(self) -> dict[str, bytes]:
        """Return all objects of the store, by key."""
        return {entry.key: self.store.objects.read(entry.key)[0] for entry in self.store.objects.list()}


TASK, DEFAULT = make_task(), Request()


def run(workspace: Workspace, task: Task = TASK, request: Request = DEFAULT) -> RunRecord:
    """Run the task once, and return the record of the run."""
    ended = stages.run_task(workspace.context, task, request)
    assert isinstance(ended, RunRecord), ended
    return ended


def plan(workspace: Workspace, task: Task = TASK, request: Request = DEFAULT) -> Plan:
    """Return the planned run."""
    planned = stages.plan(workspace.context, task, request)
    assert isinstance(planned, Plan), planned
    return planned


def champion(workspace: Workspace) -> str | None:
    """Return the id of the champion's run."""
    return workspace.store.champion.read().run_id


def records(workspace: Workspace) -> list[RunRecord]:
    """Return the records of the ledger."""
    return workspace.store.ledger.read()
