"""Read and write the learning-speed index of a run in the store. It has one file for each drop."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from retrain.data.sample_table import USES
from retrain.data.table_making import read_or_make_table
from retrain.errors import RunError
from retrain.recipe.learning_speed import STORED_DTYPE, Counters, from_tensors, split, to_tensors
from retrain.records import Dataset, DropRef
from retrain.store.runs import RunFiles
from retrain.store.task_store import TaskStore


def write_counters(files: RunFiles, dataset: Dataset, parts: Iterable[Counters]) -> str:
    """Write a run's counters, drop by drop, and return the digest of the learning-speed index."""
    pairs = zip(dataset.drops, parts, strict=True)
    return files.write_index((drop.id, to_tensors(part)) for drop, part in pairs)


def read_counters(files: RunFiles, dataset: Dataset, known: int) -> Counters:
    """Return a run's counters of all samples of a dataset. The run was trained on the dataset's first `known` drops.

    Samples of all other drops get zeros. Raises the same errors as `read_known_counters`.
    """
    whole = Counters.zeros(dataset.samples, dtype=STORED_DTYPE)
    views = split(whole, [drop.samples for drop in dataset.drops])
    for part, view in zip(read_known_counters(files, dataset, known), views, strict=False):
        view.copy(part)
    return whole


def read_known_counters(files: RunFiles, dataset: Dataset, known: int) -> Iterator[Counters]:
    """Yield the counters of the first `known` drops of a dataset. The run was trained on them in this order.

    A drop of the run that the dataset lacks is in quarantine and is skipped. Raises `RunError` at the first drop whose
    number of samples differs from the learning-speed index. Also raises `RunError`, at the end, if the digest of the
    index differs from the digest in the run's result.
    """
    if not known:
        return
    now = {drop.id: drop for drop in dataset.drops[:known]}
    for drop, tensors in files.index(now.keys()):
        part = from_tensors(tensors)
        if len(part.seen) != drop.samples:
            raise RunError(
                f"{files.run_id} has learning-speed counters of {len(part.seen):,} samples of drop {drop.id}, but "
                f"the drop has {drop.samples:,}: restore the run's learning-speed index from a copy of the store"
            )
        yield part if drop.digest == now[drop.id].digest else _reorder_counters(files, part, drop, now[drop.id])


def _reorder_counters(files: RunFiles, counters: Counters, before: DropRef, after: DropRef) -> Counters:
    """Return counters in the order of a drop's samples after an amendment. Samples with a changed class get zeros."""
    position = torch.from_numpy(_positions_before(TaskStore(files.objects, files.keys.task), before, after))
    reordered = Counters.zeros(after.samples, dtype=STORED_DTYPE)
    for name in ("seen", "correct", "loss"):
        getattr(reordered, name)[position >= 0] = getattr(counters, name)[position[position >= 0]]
    return reordered


def _positions_before(store: TaskStore, before: DropRef, after: DropRef) -> NDArray[np.int64]:
    """Return the position that each training sample had before an amendment, int64 [after.samples].

    The position counts training samples only. It is -1 if the sample was not in train before, or had another class. An
    erased sample keeps its position.
    """
    then, now = store.drops.read_versions([before, after])
    old = read_or_make_table(then.model_copy(update={"erased": None}), store)
    new = read_or_make_table(now, store)
    train = USES.index("train")
    position = np.full(len(old), -1, np.int64)
    position[old.use == train] = np.arange(np.count_nonzero(old.use == train))
    names = np.array([*old.classes, *new.classes])
    changed = names[old.label] != names[len(old.classes) + new.label]
    position[changed] = -1
    positions: NDArray[np.int64] = position[new.use == train]
    return positions
