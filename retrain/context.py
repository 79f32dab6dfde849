"""Where stages work: a task's part of a store, a device, a cache, and somebody who watches."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from retrain.data.drops import read_drop
from retrain.data.resident import Samples, load
from retrain.layout import Layout
from retrain.records import Dataset
from retrain.runs import RunFiles
from retrain.store.base import Store
from retrain.store.parallel import ask_all
from retrain.training.distributed import ALONE, Ranks
from retrain.training.progress import Observer
from retrain.words import Split


@dataclass(frozen=True)
class Context:
    """Handed to every stage, and the same for all of one process."""

    store: Store
    layout: Layout
    device: torch.device
    cache: Path
    """Where decoded drops are kept between runs."""
    observer: Observer
    ranks: Ranks = ALONE
    """The processes that train together, of which this is one."""

    def samples(self, dataset: Dataset, splits: Collection[Split], image_size: int) -> dict[Split, Samples]:
        """Return splits of a dataset on the device. Raises `DamagedDrop` at the first that is damaged."""
        return load(
            dataset,
            list(ask_all(partial(read_drop, self.store, self.layout), [drop.id for drop in dataset.drops])),
            splits,
            store=self.store,
            layout=self.layout,
            image_size=image_size,
            device=self.device,
            cache_dir=self.cache,
        )

    def files(self, run_id: str) -> RunFiles:
        """Return a run's files."""
        return RunFiles(self.store, self.layout, run_id)
