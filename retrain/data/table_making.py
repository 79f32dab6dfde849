"""Read the sample table of any drop. If a drop of an early version has none, make it from the shards and store it."""

from contextlib import suppress

from retrain.data.content import examine_image
from retrain.data.dataset import split_of
from retrain.data.sample_table import SampleRow, SampleTable, amend_table, read_table
from retrain.data.shards import Encoded, read_shard
from retrain.errors import DamagedDrop, DropError
from retrain.records import Drop
from retrain.store.base import Missing
from retrain.store.task_store import TaskStore
from retrain.utils.parallel import parallel_map

IMAGE_SIZE = 32
"""Side of the square to which large JPEGs are decoded. The table hardly depends on it."""

NAME = "samples.safetensors"
"""Name of the file, next to the shards, with a table that was made from them."""


def read_or_make_table(drop: Drop, store: TaskStore) -> SampleTable:
    """Return a drop's table with its amendments applied. Raises `DamagedDrop` if its table or a shard is damaged."""
    if table := read_table(drop, store):
        return table
    key = store.keys.drop_file(drop.id, NAME)
    with suppress(Missing, ValueError):
        return amend_table(SampleTable.from_bytes(store.objects.read(key)[0]), drop)
    try:
        table = _make_table(drop, store)
    except DropError as error:
        raise DamagedDrop(drop.id, str(error)) from error
    store.objects.write(key, table.to_bytes())
    return amend_table(table, drop)


def _make_table(drop: Drop, store: TaskStore) -> SampleTable:
    rows: list[SampleRow] = []
    for position, shard in enumerate(drop.shards):
        key = store.keys.drop_file(drop.id, shard.name)
        left_out = {bad.key for bad in drop.left_out if bad.where == shard.name}

        def row_of(sample: Encoded, position: int = position) -> SampleRow:
            split = split_of(sample.key, drop.shards[position].split, drop.held_out)
            return SampleRow(sample.key, sample.class_name, split, position, examine_image(sample.data, IMAGE_SIZE))

        with store.objects.open(key) as stream:
            rows.extend(parallel_map(row_of, read_shard(stream, shard, f"{store.url}/{key}", left_out)))
    return SampleTable.of(rows)
