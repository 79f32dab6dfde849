"""Where a drop's training samples are after an amendment, so that what was counted of each goes with it."""

import numpy as np
from numpy.typing import NDArray

from retrain.data.indexing import read_or_make_table
from retrain.data.sample_table import USES
from retrain.records import DropRef
from retrain.store.task_store import TaskStore


def trained_before(store: TaskStore, before: DropRef, after: DropRef) -> NDArray[np.int64]:
    """Return for each training sample of a drop its place among those before an amendment: int64 [after.samples].

    -1 where it was not trained on as what it is now: it was not in train, or had another class.
    """
    old, new = (read_or_make_table(drop, store) for drop in store.drops.read_versions([before, after]))
    train = USES.index("train")
    place = np.full(len(old), -1, np.int64)
    place[old.use == train] = np.arange(np.count_nonzero(old.use == train))
    names = np.array([*old.classes, *new.classes])
    changed = names[old.label] != names[len(old.classes) + new.label]
    place[changed] = -1
    followed: NDArray[np.int64] = place[new.use == train]
    return followed
