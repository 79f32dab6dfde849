"""Pack random pictures as drops, in a given number of shards."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from retrain.config.task import Task
from retrain.data.shards import Encoded, write_shards
from retrain.data.uploads import ingest_drop
from retrain.records import Drop
from retrain.store.task_store import TaskStore

ICON, PHOTOGRAPH = 32, 480
CLASSES, DIFFERENT = 10, 500


def icons(count: int) -> Iterator[Encoded]:
    """Yield PNGs of 32x32 pixels in random blocks of four pixels. PNGs of photographs have about this size."""
    return _samples(count, "PNG", ICON, ICON // 2, Image.Resampling.NEAREST)


def photographs(count: int) -> Iterator[Encoded]:
    """Yield JPEGs of 480x480 pixels in smooth random colours. On average they are as large as ImageNet's images."""
    return _samples(count, "JPEG", PHOTOGRAPH, PHOTOGRAPH // 8, Image.Resampling.BICUBIC)


def _samples(count: int, kind: str, side: int, grain: int, resampling: Image.Resampling) -> Iterator[Encoded]:
    """Yield pictures. Their files repeat after `DIFFERENT` pictures, because encoding is slow."""
    random, files = np.random.default_rng(0), list[bytes]()
    for number in range(count):
        if number < DIFFERENT:
            pixels, file = random.integers(0, 256, (grain, grain, 3), dtype=np.uint8), io.BytesIO()
            Image.fromarray(pixels).resize((side, side), resampling).save(file, kind)
            files.append(file.getvalue())
        label = str(number % CLASSES)
        yield Encoded(f"{label}/{number}", label, kind.lower(), files[number % DIFFERENT])


def commit(task: Task, store: TaskStore, folder: Path, samples: Iterable[Encoded], shard_bytes: int) -> Drop:
    """Upload samples as the shards of a drop, commit the drop and return it."""
    for shard in write_shards(samples, "train", folder, limit=shard_bytes):
        store.objects.upload(folder / shard.name, store.keys.drop_file("d", shard.name))
    drop = ingest_drop("d", task, store)
    assert isinstance(drop, Drop)
    return drop
