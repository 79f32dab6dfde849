"""How much more of this machine's disk a run will take."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from retrain.config import Task
from retrain.data.cache import path_of
from retrain.data.choice import decoded_bytes
from retrain.data.source import SPLITS
from retrain.data.stream.catalogue import files_of
from retrain.data.stream.reading import HELD_OUT, refs
from retrain.data.stream.shard_cache import WHOLE, ShardCache
from retrain.layout import Layout
from retrain.quantities import bytes_of
from retrain.records import Drop
from retrain.store.base import Store
from retrain.words import Split


def still_needed(task: Task, drops: Sequence[Drop], streamed: bool, store: Store, folder: Path) -> int:
    """Return the bytes to come beside what lies in the cache folder already.

    Held, every split of a drop is kept as uint8 pixels of the size that the network sees. A stream keeps those of the
    held-out splits, and shards up to the limit.
    """
    if streamed:
        return _shards(task, drops, store, folder) + sum(_held_out(task, drops, folder))
    files = ((path_of(drop, task.data.image_size, folder), _decoded(task, drop, SPLITS)) for drop in drops)
    return sum(max(0, size - _size(path)) for path, size in files)


def _held_out(task: Task, drops: Sequence[Drop], folder: Path) -> Iterator[int]:
    for drop in drops:
        files = files_of(drop, task.data.image_size, folder)
        yield from (max(0, _decoded(task, drop, (split,)) - _size(files[split])) for split in HELD_OUT)


def _decoded(task: Task, drop: Drop, splits: Sequence[Split]) -> int:
    return decoded_bytes(sum(map(drop.samples, splits)), task.data.image_size)


def _shards(task: Task, drops: Sequence[Drop], store: Store, folder: Path) -> int:
    cache = ShardCache(store, folder / "shards", bytes_of(task.data.stream.cache))
    missing = sum(
        ref.shard.size
        for ref in chain.from_iterable(refs(drop, Layout(task.name)) for drop in drops)
        if not cache.path(ref).exists()
    )
    return min(missing, max(0, cache.limit - sum(map(_size, cache.folder.glob(f"*{WHOLE}")))))


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
