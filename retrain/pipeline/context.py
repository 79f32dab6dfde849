"""The context of the stages: a task's store, a device, a cache of decoded drops, and an observer."""

import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

# Before torch: if torch imported numpy, a Ctrl-C during this import would be discarded and leave numpy half loaded.
import numpy as np  # noqa: F401
import torch

from retrain.config import Split
from retrain.config.task import Data, Task
from retrain.data import samples
from retrain.data.dataset import decoded_bytes
from retrain.data.erasing import clear_cache
from retrain.data.local_cache import cache_folder
from retrain.data.samples import Samples
from retrain.data.stream.dataset import load_streamed
from retrain.errors import UserError
from retrain.pipeline.record_context import RecordContext
from retrain.records import Dataset, Drop, DropRef, Loading
from retrain.store.runs import EndedRunFiles
from retrain.store.task_store import TaskStore
from retrain.training.distributed import SINGLE_PROCESS, ProcessGroup, init_distributed
from retrain.training.progress import Observer, Observers
from retrain.utils.processes import available_cores

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Context(RecordContext):
    """The context of the stages. All stages that a process runs share one object."""

    device: torch.device
    cache: Path
    """Folder of decoded drops, kept between runs."""
    observer: Observer
    ranks: ProcessGroup = SINGLE_PROCESS
    """The group of processes that train together. This process is one of them."""
    manifests: dict[tuple[int, DropRef], Drop] = field(default_factory=dict)
    """Manifests that this process has read. The key contains the number of erasures in the store. After an erasure, the
    manifests are therefore read again."""
    champions: dict[str, EndedRunFiles] = field(default_factory=dict)
    """The files that `champion_files` returned last, by the id of their run."""

    def champion_files(self, run_id: str) -> EndedRunFiles:
        """Return the files of a run that another run starts from or is compared with. Keep them for the next call."""
        if run_id not in self.champions:
            self.champions.clear()
            self.champions[run_id] = self.store.ended_run(run_id)
        return self.champions[run_id]

    def drops(self, dataset: Dataset) -> list[Drop]:
        """Return a dataset's drops in the versions that it lists (`Drops.read_versions`). Read a manifest only once."""
        erasures = self.store.erasures.count()
        missing = [ref for ref in dataset.drops if (erasures, ref) not in self.manifests]
        found = dict(zip(missing, self.store.drops.read_versions(missing), strict=True)) if missing else {}
        self.manifests.update({(erasures, ref): drop for ref, drop in found.items() if drop.digest == ref.digest})
        return [found.get(ref) or self.manifests[erasures, ref] for ref in dataset.drops]

    def samples(
        self, dataset: Dataset, splits: Collection[Split], data: Data, loading: Loading
    ) -> dict[Split, Samples]:
        """Return splits of a dataset, with labels on the device. Raises `DamagedDrop` for the first damaged drop."""
        drops = self.drops(dataset)
        if any(drop.erased for drop in drops):
            clear_cache(self.cache, self.store)
        if loading.kind == "stream":
            load = partial(load_streamed, setting=data.stream)
        else:
            place = self._pixels_on(loading, decoded_bytes(dataset.samples, data.frame))
            load = partial(samples.load_in_memory, pixels_on=place)
        return load(
            dataset,
            drops,
            splits,
            store=self.store,
            image_size=data.frame,
            device=self.device,
            cache_dir=self.cache,
        )

    def _pixels_on(self, loading: Loading, size: int) -> torch.device:
        """Return the device for `size` bytes of decoded images, leaving room for networks and activations."""
        if loading.kind == "held" and self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            return self.device if 2 * size <= free else CPU
        return CPU if loading.kind == "memory" else self.device


def make_context(
    store: TaskStore, task: Task, device: str, make_observer: Callable[[], Observer] = Observers
) -> Context:
    """Return the context of the stages on a device. The default observer shows no progress.

    If torchrun started several processes, only the first process gets the observer.
    """
    _limit_threads()
    ranks = init_distributed(device)
    observer = Observers() if ranks.rank else make_observer()
    return Context(store, pick_device(device), cache_folder(), observer, ranks, factories=task.allowed_factories)


def with_device(context: RecordContext) -> Context:
    """Return this context if it has a device. Otherwise, return a context that trains and evaluates on the CPU."""
    if isinstance(context, Context):
        return context
    _limit_threads()
    return Context(
        context.store,
        CPU,
        cache_folder(),
        Observers(),
        clock=context.clock,
        stage_seconds=context.stage_seconds,
        factories=context.factories,
    )


def _limit_threads() -> None:
    """Limit torch's threads to this process's cores: more threads than the CPU quota allows would be throttled.

    OMP_NUM_THREADS takes precedence if it is set.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), available_cores()))


def pick_device(name: str) -> torch.device:
    """Return the named device. Raises `UserError` if it is not available."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", name):
        raise UserError(f"--device {name}: must be auto, cpu, cuda or cuda:N")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}; allowed: auto, cpu, cuda, cuda:N") from error
    return device
