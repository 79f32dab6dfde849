"""A stream keeps a few bytes per sample in memory, and no images."""

from contextlib import closing
from functools import partial
from pathlib import Path

import torch
from support.streams import SETTING, encoded, streaming, upload
from support.trainings import CPU
from torch import Tensor

from retrain.data.augment import Rows
from retrain.data.samples import Samples
from retrain.data.stream.order import window_shuffle
from retrain.data.stream.pixels import ShardPixels
from retrain.store import LocalStore
from retrain.training.loaders import EpochSampler
from retrain.training.streaming import StreamingLoader

BATCH = 16
ROOMY = SETTING.model_copy(update={"cache": "8Mi"})


def stream(folder: Path, samples: int) -> tuple[StreamingLoader, Samples]:
    store = LocalStore(folder / "store")
    upload(store, folder / "d-1", "d-1", encoded(samples))
    train = streaming(store, folder / "cache", ROOMY)["train"]
    arrange = partial(window_shuffle, counts=train.images.counts, window=3)
    passes = EpochSampler(None, len(train), BATCH, 7, CPU, arrange)
    return StreamingLoader(passes, train, train.images, Rows(0, BATCH, BATCH), workers=0), train


def tensors(thing: object, seen: set[int]) -> list[Tensor]:
    """Return all tensors that an object refers to, directly or through collections and objects of `retrain`."""
    if id(thing) in seen:
        return []
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        return [thing]
    if isinstance(thing, dict | list | tuple):
        inside = list(thing.values()) if isinstance(thing, dict) else list(thing)
    else:
        inside = list(vars(thing).values()) if type(thing).__module__.startswith("retrain.") else []
    return [tensor for one in inside for tensor in tensors(one, seen)]


def memory_of(folder: Path, samples: int) -> tuple[int, int]:
    """Return the number of training samples, and the bytes of the tensors in memory after a batch.

    The tensor with the number of samples in each shard is not counted.
    """
    loader, train = stream(folder, samples)
    with closing(loader):
        loader.next()
        shards = train.images.counts.untyped_storage().nbytes()
        return len(train), sum(each.untyped_storage().nbytes() for each in tensors(loader, set())) - shards


def test_stream_keeps_32_bytes_per_sample(tmp_path: Path) -> None:
    few, many = memory_of(tmp_path / "few", 200), memory_of(tmp_path / "many", 1000)
    assert many[0] > 4 * few[0]
    place, label, drop, order = 8 + 4, 8, 4, 8
    assert many[1] - few[1] == (many[0] - few[0]) * (place + label + drop + order)


class _Threads(ShardPixels):
    """Pixels whose values are torch's number of threads in the process that decodes them."""

    def read_held(self, rows: Tensor) -> Tensor:
        return super().read_held(rows).fill_(torch.get_num_threads())


def test_decoding_workers_use_one_thread_and_training_two(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    loader, train = stream(tmp_path, 100)
    loader.close()
    pixels = _Threads(
        train.images.shards, train.images.counts, train.images._offset, train.images._length, train.images.cache, 8
    )
    torch.set_num_threads(2)
    try:
        with closing(StreamingLoader(loader.sampler, train, pixels, Rows(0, BATCH, BATCH), workers=2)) as working:
            assert {int(working.next().images.max()) for _ in range(4)} == {1}
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
