"""Pictures packed as drops are, in as many shards as a benchmark wants."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from retrain.config import Task
from retrain.data.adopting import adopt
from retrain.data.shards import Encoded, write_shards
from retrain.layout import Layout
from retrain.records import Drop
from retrain.store.base import Store

SIZE, CLASSES = 32, 10


def pictures(count: int) -> Iterator[Encoded]:
    """Random pixels, blurred by half so that a PNG of them is about as large as one of a photograph."""
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = random.integers(0, 256, (SIZE // 2, SIZE // 2, 3), dtype=np.uint8).repeat(2, 0).repeat(2, 1)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        yield Encoded(f"{number % CLASSES}/{number}", str(number % CLASSES), "png", buffer.getvalue())


def commit(task: Task, store: Store, folder: Path, count: int, shard_bytes: int) -> Drop:
    """Upload the pictures as shards, and commit them."""
    for shard in write_shards(pictures(count), "train", folder, limit=shard_bytes):
        store.upload(folder / shard.name, Layout(task.name).shard("d", shard.name))
    return adopt("d", task, store)
