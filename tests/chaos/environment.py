"""The environment of a scenario: a store, a cache, and a task whose short runs save checkpoints."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import boto3
import torch
from PIL import Image
from support.programs import AWS
from support.trainings import SIZE, pixels

from retrain.config.loading import load_task
from retrain.config.task import Task
from retrain.pipeline.context import Context, make_context
from retrain.store import ObjectStore, open_store
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore

KEYS = TaskKeys("pets")
SEEDS = (0, 1, 2)
"""Seeds of the runs on the second drop. Each racing candidate has its own seed."""
EACH, CLASSES = 40, 3
DROPS = ("first", "second")


class Environment(NamedTuple):
    """Folder, store and task file of a scenario. Each of its processes gets them."""

    folder: Path
    url: str
    endpoint: str | None = None
    file: str | None = None
    """The task file of a long scenario."""

    def task(self, seed: int = 0, changes: Sequence[str] = ()) -> Task:
        """Return the task of the task file with changed settings. Without a file, return the task of short scenarios.

        The task of short scenarios has a network with dropout and batch statistics, and random crops of the images.
        Runs save a checkpoint at every iteration.
        """
        if self.file:
            return load_task(self.file, [*self.address(), *changes])
        return Task.model_validate(
            {
                "name": KEYS.task,
                "store": self.url,
                "endpoint_url": self.endpoint,
                "seed": seed,
                "data": {"image_size": SIZE, "crop_padding": 1, "val_share": 0.25, "test_share": 0.25},
                "model": {"name": "support.trainings:dropout_net"},
                "training": {"epochs": 8, "batch_size": 8, "evaluate_every": 0.7, "save_seconds": 0},
                "recipe": {"initialization": {"name": "shrink_perturb"}, "objective": {"name": "none"}},
                "target": {"level": 99},
                "gate": {"margin": 1.0},
            }
        )

    def address(self) -> list[str]:
        """Return the settings of the store in the form that `--set` accepts."""
        return [f"store={self.url}", *([f"endpoint_url={self.endpoint}"] if self.endpoint else [])]

    def context(self) -> Context:
        """Return the context of the stages, on the CPU."""
        return make_context(TaskStore(open_store(self.url, self.endpoint), self.task().name), self.task(), "cpu")

    @property
    def cache(self) -> Path:
        """Return the folder of decoded drops."""
        return self.folder / "cache"

    def source(self, drop: str) -> Path:
        """Return the folder with the images of a drop."""
        return self.folder.parent / "sources" / drop

    def set_up_process(self) -> None:
        """Set the number of threads, the credentials and the cache of this process."""
        torch.set_num_threads(1)
        os.environ.update(AWS, RETRAIN_CACHE=str(self.cache))


def write_sources(folder: Path) -> None:
    """Write the images of all drops into separate folders."""
    for seed, drop in enumerate(DROPS):
        labels = torch.arange(CLASSES).repeat_interleave(EACH)
        for number, image in enumerate(pixels(labels, seed)):
            path = folder / "sources" / drop / f"class-{labels[number]}" / f"{seed}-{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


def objects(store: ObjectStore) -> dict[str, bytes]:
    """Return all objects of the task by their keys, without the task's name."""
    prefix = f"{KEYS.task}/"
    return {entry.key.removeprefix(prefix): store.read(entry.key)[0] for entry in store.list(prefix)}


def versioned_bucket(server: str) -> str:
    """Return a new bucket that keeps every version of its objects."""
    client, name = boto3.client("s3", endpoint_url=server), f"chaos-{uuid4().hex}"
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    client.close()
    return name


def versions(server: str, bucket: str, key: str) -> list[bytes]:
    """Return all versions of an object, oldest first."""
    client: Any = boto3.client("s3", endpoint_url=server)
    found = client.list_object_versions(Bucket=bucket, Prefix=key).get("Versions", [])
    identities = [version["VersionId"] for version in reversed(found)]
    bodies = [client.get_object(Bucket=bucket, Key=key, VersionId=identity)["Body"] for identity in identities]
    data = [body.read() for body in bodies]
    client.close()
    return data
