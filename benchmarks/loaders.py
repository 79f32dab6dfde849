"""Measure the images per second of four loaders of a training set: in memory, streamed, webdataset, and tarfile.

The same PNGs are packed as drops, in a folder and on an S3 server over HTTP. Each loader reads one epoch into uint8
batches of 128, and shuffles the samples if it can. `streamed` is this project's loader. It is measured with a cold
cache, when every shard is fetched, and with a warm cache. The loaders alternate. Other programs on the machine then
slow all of them down alike.
"""

import os
import shutil
import statistics
import tarfile
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import BinaryIO

import torch
import webdataset as wds
from lib.pictures import ICON, commit, icons
from lib.report import parser, report
from lib.s3 import serving_moto
from lib.splits import CPU, CachedDrop
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from retrain.config.task import Stream, Task
from retrain.data.augment import Rows
from retrain.data.images import decode_image
from retrain.data.stream.order import window_shuffle
from retrain.data.stream.pixels import ShardPixels
from retrain.store import open_store
from retrain.store.base import ObjectStore
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore
from retrain.training.loaders import EpochSampler, InMemoryLoader, Loader
from retrain.training.streaming import StreamingLoader

BATCH, ROWS = 128, Rows(0, 128, 128)
KEYS = TaskKeys("loaders")
SETTING = Stream(shuffle_shards=8, cache="1Gi")
WORKERS = (0, 1, 2)
Pass = Callable[[], int]


class ComparedLoaders:
    """The compared loaders. Each method returns an epoch: a function that reads samples and returns their number."""

    def __init__(self, cached: CachedDrop, url: str) -> None:
        self.cached = cached
        self.keys = [KEYS.drop_file(cached.drop.id, shard.name) for shard in cached.drop.shards]
        self.url = url

    def named(self) -> dict[str, Callable[[], Pass]]:
        """Return the functions that prepare an epoch of each loader, by the loader's name."""
        loaders: dict[str, Callable[[], Pass]] = {"in memory": self.in_memory}
        for workers in WORKERS:
            of = f"{workers} workers"
            loaders |= {
                f"streamed, cold cache, {of}": partial(self.streamed_cold, workers),
                f"streamed, warm cache, {of}": partial(self.streamed, workers),
                f"webdataset alone, {of}": partial(self.webdataset, workers),
                f"tarfile alone, {of}": partial(self.tarfile, workers),
            }
        return loaders

    def in_memory(self) -> Pass:
        """Return an epoch of this project's loader over samples in memory."""
        train = self.cached.in_memory()["train"]
        return partial(_pass, InMemoryLoader(EpochSampler(None, len(train), BATCH, 0, CPU), train, ROWS), len(train))

    def streamed(self, workers: int) -> Pass:
        """Return an epoch of this project's loader over samples that are streamed."""
        train = self.cached.streamed(SETTING)["train"]
        pixels = train.images
        assert isinstance(pixels, ShardPixels)
        arrange = partial(window_shuffle, counts=pixels.counts, window=SETTING.shuffle_shards)
        passes = EpochSampler(None, len(train), BATCH, 0, CPU, arrange)
        return partial(_pass, StreamingLoader(passes, train, pixels, ROWS, workers), len(train))

    def streamed_cold(self, workers: int) -> Pass:
        """Return an epoch of the streamed loader. The cache has the samples' positions in the shards, but no shard."""
        prepared = self.streamed(workers)
        shutil.rmtree(self.cached.cache / "shards")
        return prepared

    def webdataset(self, workers: int) -> Pass:
        """Return a loop over webdataset as documented, with shuffled shards and a buffer of 1,000 samples."""
        urls = [f"{self.url}/{key}" for key in self.keys]
        samples = wds.WebDataset(urls, shardshuffle=100, empty_check=False).shuffle(1000).map(_decoded).batched(BATCH)
        loader = wds.WebLoader(samples, batch_size=None, num_workers=workers)
        return lambda: sum(len(images) for (images,) in loader)

    def tarfile(self, workers: int) -> Pass:
        """Return a loop over tarfile in the order of the files."""
        loader = DataLoader(_Tars(self.url, self.keys), BATCH, num_workers=workers)
        return lambda: sum(map(len, loader))


def _pass(loader: Loader, samples: int) -> int:
    batches = samples // BATCH
    for _ in range(batches):
        loader.next()
    loader.close()
    return batches * BATCH


def _decoded(sample: dict[str, bytes]) -> tuple[Tensor]:
    """Return a sample's image, decoded as in webdataset's documentation."""
    return (torch.from_numpy(decode_image(sample["png"], ICON)),)


class _Tars(IterableDataset[Tensor]):
    """A dataset of the images in tar files. Each worker reads every n-th shard."""

    def __init__(self, url: str, keys: list[str]) -> None:
        self.url, self.keys = url, keys

    def __iter__(self) -> Iterator[Tensor]:
        worker, store = get_worker_info(), opened(self.url, os.getpid())
        for key in self.keys[worker.id if worker else 0 :: worker.num_workers if worker else 1]:
            with store.open(key) as file, tarfile.open(fileobj=file, mode="r|") as tar:
                for member in tar:
                    if member.name.endswith(".png") and (image := tar.extractfile(member)):
                        yield torch.from_numpy(decode_image(image.read(), ICON))


def gopen_s3(url: str, *_: object, **__: object) -> BinaryIO:
    """Return the body of an S3 address for webdataset. Each shard takes one request."""
    bucket, _slash, key = url.removeprefix("s3://").partition("/")
    return opened(f"s3://{bucket}", os.getpid()).open(key)


@cache
def opened(url: str, process: int) -> ObjectStore:
    """Return the store, opened in this process. A forked process cannot use the connections of its parent."""
    return open_store(url)


def measure(url: str, options: Namespace) -> dict[str, object]:
    """Return the speeds of all loaders on one store. The loaders alternate."""
    store = open_store(url)
    with tempfile.TemporaryDirectory(prefix="retrain-loaders-") as folder:
        samples = icons(options.images)
        drop = commit(Task(name=KEYS.task), TaskStore(store, KEYS.task), Path(folder), samples, options.shard_bytes)
        loaders = ComparedLoaders(CachedDrop(drop, store, ICON, Path(folder, "cache")), url)
        speeds = {name: list[float]() for name in loaders.named()}
        for name, prepare in options.rounds * list(loaders.named().items()):
            read_epoch = prepare()
            began = time.perf_counter()
            speeds[name].append(read_epoch() / (time.perf_counter() - began))
    medians = {name: round(statistics.median(each)) for name, each in speeds.items()}
    best = max(speed for name, speed in medians.items() if "alone" in name)
    ratios = {name: round(speed / best, 2) for name, speed in medians.items()}
    return {"shards": len(drop.shards), "images_per_second": medians, "against_the_best_alone": ratios}


def main() -> None:
    """Compare on a folder, then on an S3 server."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=6_000)
    options.add_argument("--shard-bytes", type=int, default=500_000)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    wds.gopen_schemes["s3"] = gopen_s3
    with tempfile.TemporaryDirectory(prefix="retrain-loaders-") as folder:
        local = measure(folder, chosen)
    with serving_moto("loaders"):
        remote = measure("s3://loaders/bench", chosen)
    report({"images": chosen.images, "folder": local, "S3 over HTTP": remote}, chosen.output)


if __name__ == "__main__":
    main()
