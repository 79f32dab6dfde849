"""Find the sample keys of wrongly classified images in the sample tables of their drops.

The evaluation reads no sample table. It identifies an image by its number in the test split of its drop. Imports no
torch, because the report uses this module, too.
"""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from retrain.data.sample_keys import name_in_drop, readable_key
from retrain.data.sample_table import USES, read_table
from retrain.errors import DropError, RunError, StoreError
from retrain.records import DropRef, Mistake
from retrain.records.errors import ImagePosition
from retrain.store.task_store import TaskStore


def name_mistakes(mistakes: Sequence[Mistake], run_id: str, store: TaskStore) -> tuple[Mistake, ...]:
    """Return a run's mistakes on its test split, with the keys of their images instead of their positions.

    A position is not replaced in three cases:

    - The drop is missing, is damaged or has no sample table.
    - Images of the drop were erased after the run had used them.
    - The access policy does not allow this process, such as the metrics exporter, to read the sample table.
    """
    places = [ImagePosition.parse(mistake.where) for mistake in mistakes]
    named = {place.drop for place in places if place}
    keys: dict[str, list[str]] = {}
    with suppress(RunError):
        refs = store.run(run_id).plan().dataset.drops
        keys = {ref.id: _read_test_keys(ref, store) for ref in refs if ref.id in named}
    return tuple(
        mistake.model_copy(update={"where": _describe(place, keys.get(place.drop, []))}) if place else mistake
        for mistake, place in zip(mistakes, places, strict=True)
    )


def _describe(place: ImagePosition, keys: Sequence[str]) -> str:
    if place.number > len(keys):
        return str(place)
    return name_in_drop(readable_key(keys[place.number - 1]), place.drop)


def _read_test_keys(ref: DropRef, store: TaskStore) -> list[str]:
    """Return the keys of a drop's test samples, in the order of the run's test split. Empty if they are unknown."""
    with suppress(DropError, StoreError):
        drop = next(store.drops.read_versions([ref]))
        table = read_table(drop, store)
        if table and drop.digest == ref.digest and not drop.erased_since:
            return [table.keys[row] for row in np.flatnonzero(table.use == USES.index("test")).tolist()]
    return []
