"""Load a drop's training samples and val, in memory or streamed from the store, on the CPU."""

from pathlib import Path
from typing import NamedTuple

import torch

from retrain.config import Split
from retrain.config.task import Stream
from retrain.data import samples
from retrain.data.dataset import make_dataset
from retrain.data.samples import Samples
from retrain.data.stream import dataset
from retrain.records import Drop
from retrain.store.base import ObjectStore
from retrain.store.task_store import TaskStore

CPU = torch.device("cpu")
SPLITS: tuple[Split, ...] = ("train", "val")


class CachedDrop(NamedTuple):
    """A committed drop, and the folder of its decoded images or of its cached shards."""

    drop: Drop
    store: ObjectStore
    image_size: int
    cache: Path

    def in_memory(self) -> dict[Split, Samples]:
        """Return the splits, decoded in memory."""
        return samples.load_in_memory(
            make_dataset([self.drop]),
            [self.drop],
            SPLITS,
            store=TaskStore(self.store, self.drop.task),
            image_size=self.image_size,
            device=CPU,
            pixels_on=CPU,
            cache_dir=self.cache,
        )

    def streamed(self, setting: Stream) -> dict[Split, Samples]:
        """Return the splits. The training samples are streamed from their shards."""
        return dataset.load_streamed(
            make_dataset([self.drop]),
            [self.drop],
            SPLITS,
            setting=setting,
            store=TaskStore(self.store, self.drop.task),
            image_size=self.image_size,
            device=CPU,
            cache_dir=self.cache,
        )
