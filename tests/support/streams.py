"""Make drops of many small shards, as a producer would upload them, and loaders that stream these drops."""

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from retrain.config import Split
from retrain.config.task import Stream
from retrain.data.dataset import make_dataset
from retrain.data.samples import Samples
from retrain.data.shards import Encoded, write_shards
from retrain.data.stream.dataset import load_streamed
from retrain.data.uploads import ingest_drop
from retrain.records import Drop
from retrain.store import ObjectStore
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore
from support.trainings import CPU, SIZE, TASK, pixels

KEYS = TaskKeys(TASK.name)
SHARD = 4000
"""Bytes of images in a shard: some twenty images."""

SETTING = Stream(shuffle_shards=3, cache="400Ki", workers=0)
"""Settings of streaming. The cache has space for a third of the shards of the tests' drops."""


def encoded(count: int, first: int = 0, classes: int = 5) -> list[Encoded]:
    """Return PNG files in the colours of their classes."""
    labels = torch.arange(first, first + count) % classes
    samples = []
    for number, (label, image) in enumerate(zip(labels.tolist(), pixels(labels, seed=first), strict=True), first):
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
        samples.append(Encoded(f"class-{label}/{number}", f"class-{label}", "png", file.getvalue()))
    return samples


def upload(store: ObjectStore, folder: Path, drop_id: str, samples: Sequence[Encoded]) -> Drop:
    """Commit samples as a drop of small shards."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in write_shards(samples, "train", folder, limit=SHARD):
        store.upload(folder / shard.name, KEYS.drop_file(drop_id, shard.name))
    drop = ingest_drop(drop_id, TASK, TaskStore(store, TASK.name))
    assert isinstance(drop, Drop)
    return drop


def two_drops(store: ObjectStore, folder: Path, counts: Sequence[int] = (300, 200)) -> list[Drop]:
    """Commit two drops. The second drop has one more class."""
    first = upload(store, folder / "1", "d-1", encoded(counts[0], classes=4))
    return [first, upload(store, folder / "2", "d-2", encoded(counts[1], first=1000))]


def streaming(
    store: ObjectStore, cache: Path, setting: Stream = SETTING, splits: Sequence[Split] = ("train", "val", "test")
) -> dict[Split, Samples]:
    """Return the samples of all drops of the store, streamed, by split."""
    drops = TaskStore(store, TASK.name).drops.all()
    where = {"store": TaskStore(store, TASK.name), "image_size": SIZE, "device": CPU, "cache_dir": cache}
    return load_streamed(make_dataset(drops), drops, splits, setting=setting, **where)
