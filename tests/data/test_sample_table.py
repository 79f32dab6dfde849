"""A sample table that does not belong to its manifest is refused, even if its digest is in the manifest."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.pictures import two_classes
from support.uploads import task_in

from retrain.data.packing import pack
from retrain.data.sample_table import SampleTable, name_table, read_table
from retrain.errors import DamagedDrop
from retrain.records import Drop
from retrain.store.task_store import TaskStore, open_task_store


@pytest.fixture
def store(tmp_path: Path) -> TaskStore:
    store = open_task_store(task_in(tmp_path))
    pack(two_classes(tmp_path / "pets"), task_in(tmp_path), store, drop_id="first")
    return store


def with_table(table: SampleTable, store: TaskStore) -> Drop:
    """Store a table, and return the first drop's manifest with the table's digest."""
    data = table.to_bytes()
    listed = name_table(data)
    store.objects.write(store.keys.drop_file("first", listed.name), data)
    return store.drops.read("first").model_copy(update={"sample_list": listed})


@pytest.mark.parametrize(
    ("column", "values", "why"),
    [
        ("label", lambda: np.full(80, 2, np.int32), "the number of a class, or of a use, that does not exist"),
        ("label", lambda: np.full(80, -2, np.int32), "the number of a class, or of a use, that does not exist"),
        ("use", lambda: np.full(80, 7, np.uint8), "the number of a class, or of a use, that does not exist"),
        ("shard", lambda: np.full(80, 1, np.int32), "a shard that the manifest does not name"),
        ("label", lambda: np.zeros(79, np.int32), r"its column label is int32 \(79,\), with 80 samples"),
        ("width", lambda: np.zeros(80, np.float32), r"its column width is float32 \(80,\), with 80 samples"),
        ("likeness", lambda: np.zeros((80, 4), np.uint8), r"its column likeness is uint8 \(80, 4\), with 80 samples"),
    ],
)
def test_table_with_impossible_numbers_is_damaged(
    store: TaskStore, column: str, values: Callable[[], np.ndarray], why: str
) -> None:
    drop = store.drops.read("first")
    table = read_table(drop, store)
    assert table is not None
    assert len(table) == 80
    with pytest.raises(DamagedDrop, match=f"{why}. Restore the file"):
        read_table(with_table(replace(table, **{column: values()}), store), store)
