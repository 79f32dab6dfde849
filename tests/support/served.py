"""Make a task with a champion, a task file, and images that the champion has not seen."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from retrain.config.task import Task
from retrain.data.assignment import Assignment
from retrain.data.shards import read_shard
from retrain.pipeline import stages
from retrain.pipeline.planning import Request
from retrain.records import RunRecord
from retrain.store import LocalStore
from support.trainings import pixels
from support.workspaces import Workspace, make_task


@dataclass(frozen=True)
class Served:
    """A task whose champion classifies images by their colours."""

    workspace: Workspace
    task: Task
    file: str
    """The task's file."""

    def retrain(self) -> RunRecord:
        """Retrain on all drops that have landed."""
        record = stages.run_task(self.workspace.context, self.task, Request())
        assert isinstance(record, RunRecord)
        return record

    def images(self, *classes: int, each: int = 3, seed: int = 9) -> Path:
        """Write unseen images as class/number.png, and return their folder."""
        folder = self.workspace.folder / f"unseen-{seed}"
        for label in classes:
            (folder / f"class-{label}").mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(pixels(torch.tensor([label] * each), seed + label)):
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"class-{label}" / f"{number}.png")
        return folder

    def test_files(self) -> list[bytes]:
        """Return the image files of the test split, in the dataset's order."""
        store, found = self.workspace.store, []
        for drop in store.drops.all():
            assignment = Assignment.of(drop, store)
            for position, shard in enumerate(drop.shards):
                with store.objects.open(store.keys.drop_file(drop.id, shard.name)) as stream:
                    samples = list(read_shard(stream, shard, shard.name, assignment.skipped(position)))
                places = [assignment.place(position, one.key, one.class_name) for one in samples]
                found += [
                    one.data for one, place in zip(samples, places, strict=True) if place and place.split == "test"
                ]
        return found


def make_served(folder: Path, *classes: int, **parts: object) -> Served:
    """Commit one drop of these classes and train a champion on it."""
    store = LocalStore(folder / "store")
    optimizer = {"name": "adam", "learning_rate": 0.01}
    training = {"epochs": 20, "batch_size": 16, "evaluate_every": 5, "optimizer": optimizer}
    task = make_task(store=store.url, **{"training": training, **parts})
    file = folder / "pets.yaml"
    file.write_text(task.model_dump_json())  # YAML is a superset of JSON
    workspace = Workspace(store, folder)
    workspace.context = replace(workspace.context, factories=frozenset(task.factories))
    served = Served(workspace, task, str(file))
    served.workspace.land(*classes, seed=1)
    served.retrain()
    return served
