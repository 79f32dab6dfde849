"""A stream downloads each shard once an epoch: not too early, not after its use, and never twice."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from support.streams import KEYS, SETTING, encoded, streaming, upload
from support.trainings import CPU, TASK, plan_of

from retrain.config.recipe import Constant, Recipe, Warm
from retrain.data.augment import Rows
from retrain.data.samples import Samples
from retrain.data.stream.order import window_shuffle
from retrain.data.stream.reading import shard_refs
from retrain.data.stream.shard_cache import SHARDS_AHEAD, ReadAhead, ShardCache, ShardRef
from retrain.store import LocalStore
from retrain.training.evaluation import measure_train_accuracy
from retrain.training.loaders import EpochSampler, Position
from retrain.training.seeds import fresh_network
from retrain.training.setup import Parent, set_up
from retrain.training.streaming import StreamingLoader

BATCH, WINDOW = 16, 3
MOST = WINDOW + 2 + SHARDS_AHEAD
"""Shards of a batch of 16 samples, each shard with 15 or more, and the shards after them that are prefetched."""


class Listing(LocalStore):
    """A local store that lists its downloads."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.downloads: list[str] = []

    def download(self, key: str, path: Path) -> None:
        """List the download, and copy the object."""
        self.downloads.append(key)
        super().download(key, path)


@pytest.fixture
def store(tmp_path: Path) -> Listing:
    return Listing(tmp_path / "store")


@pytest.fixture
def train(store: Listing, tmp_path: Path) -> Samples:
    """Return the training samples of many shards, none of which is in the cache."""
    return stream_anew(store, tmp_path, "8Mi")


def stream_anew(store: Listing, tmp_path: Path, room: str) -> Samples:
    upload(store, tmp_path / "d-1", "d-1", encoded(900))
    train = streaming(store, tmp_path / "cache", SETTING.model_copy(update={"cache": room}))["train"]
    for path in (tmp_path / "cache" / "shards").glob("*.tar"):
        path.unlink()
    store.downloads.clear()
    assert len(train.images.shards) > 3 * MOST
    return train


def loader(train: Samples) -> StreamingLoader:
    """Return a loader that prefetches in one thread."""
    arrange = partial(window_shuffle, counts=train.images.counts, window=WINDOW)
    sampler = EpochSampler(None, len(train), BATCH, 7, CPU, arrange)
    return in_one_thread(StreamingLoader(sampler, train, train.images, Rows(0, BATCH, BATCH), workers=0))


def in_one_thread(loader: StreamingLoader) -> StreamingLoader:
    loader._shards._ahead._threads = ThreadPoolExecutor(1)
    return loader


def wait(ahead: ReadAhead) -> None:
    """Wait until the only thread has done all its work."""
    ahead._threads.submit(int).result()


def test_resumed_stream_does_not_fetch_passed_shards(store: Listing, train: Samples) -> None:
    with closing(loader(train)) as stream:
        stream.seek(Position(0, len(train) // 2))
        in_one_thread(stream).next()
        wait(stream._shards._ahead)
        assert 0 < len(store.downloads) <= MOST


def test_batch_across_epochs_prefetches_only_the_next_shards(store: Listing, train: Samples) -> None:
    with closing(loader(train)) as stream:
        stream.seek(Position(0, len(train) - BATCH // 2))
        in_one_thread(stream).next()
        assert stream.position.epoch == 1
        wait(stream._shards._ahead)
        assert 0 < len(store.downloads) <= 2 * MOST


def age(cache: ShardCache) -> None:
    """Make the last uses of all shards ten seconds older."""
    for path in cache.folder.glob("*.tar"):
        last = path.stat().st_mtime - 10
        os.utime(path, (last, last))


def test_prefetched_shards_are_evicted_after_used_ones(store: Listing, tmp_path: Path) -> None:
    shards: list[ShardRef] = shard_refs(upload(store, tmp_path / "d-1", "d-1", encoded(300)), KEYS)
    room = 2 + SHARDS_AHEAD
    cache = ShardCache(store, tmp_path / "cache", room * max(ref.shard.size for ref in shards))
    store.downloads.clear()
    with ReadAhead(cache) as ahead:
        ahead._threads = ThreadPoolExecutor(1)
        ahead.follow(shards)
        for position, ref in enumerate(shards):
            age(cache)
            ahead.reach(position)
            wait(ahead)
            age(cache)
            cache.hold(ref).close()
    assert sorted(store.downloads) == sorted(ref.key for ref in shards)


def test_random_samples_are_read_shard_by_shard(store: Listing, tmp_path: Path) -> None:
    """The cache has room for a third of the shards."""
    train = stream_anew(store, tmp_path, "520Ki")
    shards = len(train.images.shards)
    recipe = Recipe(initialization=Warm(head_rows="class_means"), schedule=Constant())
    data = TASK.data.model_copy(update={"stream": SETTING})
    task = TASK.model_copy(update={"recipe": recipe, "data": data})
    parent = fresh_network(plan_of(task, sizes=(len(train),), classes=3)).state_dict()
    plan = plan_of(task, "continuous", (len(train),), 5, parent="scratch-0")
    run = set_up(plan, train, train, Parent(parent, None))
    assert run.progress.evaluated_images == len(train)
    assert shards / 2 < len(store.downloads) <= shards
    measure_train_accuracy(run)
    assert len(store.downloads) <= 2 * shards
