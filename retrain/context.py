"""Where stages work: a task's part of a store, a device, a cache, and somebody who watches."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from retrain.config import Data
from retrain.data import resident
from retrain.data.choice import decoded_bytes
from retrain.data.drops import read_drop
from retrain.data.samples import Samples
from retrain.data.stream import dataset as streamed
from retrain.layout import Layout
from retrain.records import Dataset, Loading
from retrain.runs import RunFiles
from retrain.store.base import Store
from retrain.store.parallel import ask_all
from retrain.training.distributed import ALONE, Ranks
from retrain.training.progress import Observer
from retrain.words import Split

CPU = torch.device("cpu")


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
    factories: frozenset[str] = frozenset()
    """The `package.module:factory` names of the task file. Plans lie in the store: they have no other code run."""

    def samples(
        self, dataset: Dataset, splits: Collection[Split], data: Data, loading: Loading
    ) -> dict[Split, Samples]:
        """Return splits of a dataset, their labels on the device. Raises `DamagedDrop` at the first that is damaged."""
        drops = list(ask_all(partial(read_drop, self.store, self.layout), [drop.id for drop in dataset.drops]))
        if loading.kind == "stream":
            return streamed.load(
                dataset,
                drops,
                splits,
                setting=data.stream,
                store=self.store,
                layout=self.layout,
                image_size=data.image_size,
                device=self.device,
                cache_dir=self.cache,
            )
        return resident.load(
            dataset,
            drops,
            splits,
            store=self.store,
            layout=self.layout,
            image_size=data.image_size,
            device=self.device,
            pixels_on=self._pixels_on(loading, decoded_bytes(dataset.samples, data.image_size)),
            cache_dir=self.cache,
        )

    def _pixels_on(self, loading: Loading, size: int) -> torch.device:
        """Where decoded images are held: `size` bytes, beside which networks and activations need room too."""
        if loading.kind == "held" and self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            return self.device if 2 * size <= free else CPU
        return CPU if loading.kind == "memory" else self.device

    def files(self, run_id: str) -> RunFiles:
        """Return a run's files."""
        return RunFiles(self.store, self.layout, run_id)
