"""Images a second of what a training could read them with: held, streamed, webdataset alone, tarfile alone.

The same PNGs, packed as drops are, lie in a folder and on an S3 server that is spoken to over HTTP. Each way reads one
pass: into uint8 batches of 128, shuffled where it shuffles. `streamed` is this project's loader, from a cache that is
cold (every shard is fetched) and then warm. The ways take turns, so that whatever else the machine does meets all.
"""

import os
import shutil
import statistics
import tarfile
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import boto3
import torch
import webdataset as wds
from lib.pictures import SIZE, commit
from lib.report import parser, report
from moto.server import ThreadedMotoServer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from retrain.config import Stream, Task
from retrain.data import resident
from retrain.data.augment import Part
from retrain.data.dataset import make_dataset
from retrain.data.images import decode
from retrain.data.stream import dataset as streamed
from retrain.data.stream.order import mixed
from retrain.data.stream.pixels import ShardPixels
from retrain.layout import Layout
from retrain.records import Drop
from retrain.store import open_store
from retrain.store.base import Store
from retrain.training.loading import Gathering, Loader
from retrain.training.passes import Passes
from retrain.training.streaming import Streaming

BATCH, CPU = 128, torch.device("cpu")
LAYOUT = Layout("loaders")
SETTING = Stream(shuffle_shards=8, cache="1Gi")
WORKERS = (0, 1, 2)


def held(drop: Drop, store: Store, cache: Path) -> tuple[Loader, int]:
    """This project's loader of what fits."""
    train = resident.load(
        make_dataset([drop]),
        [drop],
        ["train"],
        store=store,
        layout=LAYOUT,
        image_size=SIZE,
        device=CPU,
        pixels_on=CPU,
        cache_dir=cache,
    )["train"]
    return Gathering(Passes(None, len(train), BATCH, 0, CPU), train, Part(0, BATCH, BATCH)), len(train)


def stream(drop: Drop, store: Store, cache: Path, workers: int) -> tuple[Loader, int]:
    """This project's loader of what does not."""
    train = streamed.load(
        make_dataset([drop]),
        [drop],
        ["train"],
        setting=SETTING,
        store=store,
        layout=LAYOUT,
        image_size=SIZE,
        device=CPU,
        cache_dir=cache,
    )["train"]
    pixels = train.images
    assert isinstance(pixels, ShardPixels)
    arrange = partial(mixed, counts=pixels.counts, window=SETTING.shuffle_shards)
    passes = Passes(None, len(train), BATCH, 0, CPU, arrange)
    return Streaming(passes, train, pixels, Part(0, BATCH, BATCH), workers), len(train)


def pass_of(made: tuple[Loader, int]) -> float:
    """Images a second over one pass of a loader."""
    loader, samples = made
    began = time.perf_counter()
    for _ in range(samples // BATCH):
        loader.next()
    passed = time.perf_counter() - began
    loader.close()
    return samples // BATCH * BATCH / passed


def decoded(sample: dict[str, bytes]) -> tuple[Tensor]:
    """What webdataset's users write to decode a sample."""
    return (torch.from_numpy(decode(sample["png"], SIZE)),)


def webdataset_alone(drop: Drop, store: Store, workers: int) -> float:
    """webdataset as its documentation shows it: shards shuffled, a buffer of 1,000 samples, batches."""
    urls = [f"{store.url}/{LAYOUT.shard(drop.id, shard.name)}" for shard in drop.shards]
    samples = wds.WebDataset(urls, shardshuffle=100, empty_check=False).shuffle(1000).map(decoded).batched(BATCH)
    began = time.perf_counter()
    read = sum(len(images) for (images,) in wds.WebLoader(samples, batch_size=None, num_workers=workers))
    return read / (time.perf_counter() - began)


class Tars(IterableDataset[Tensor]):
    """A loop over tarfile, decoding: in order, a shard for each worker in turn."""

    def __init__(self, drop: Drop, store: Store) -> None:
        self.keys, self.store = [LAYOUT.shard(drop.id, shard.name) for shard in drop.shards], store

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        for key in self.keys[worker.id if worker else 0 :: worker.num_workers if worker else 1]:
            with self.store.open(key) as file, tarfile.open(fileobj=file, mode="r|") as tar:
                for member in tar:
                    if member.name.endswith(".png") and (image := tar.extractfile(member)):
                        yield torch.from_numpy(decode(image.read(), SIZE))


def tarfile_alone(drop: Drop, store: Store, workers: int) -> float:
    """Images a second of the loop."""
    began = time.perf_counter()
    read = sum(len(batch) for batch in DataLoader(Tars(drop, store), BATCH, num_workers=workers))
    return read / (time.perf_counter() - began)


def gopen_s3(url: str, *_: object, **__: object) -> BinaryIO:
    """Let webdataset read from the S3 server as its users do: a request for each shard."""
    bucket, _slash, prefix = url.removeprefix("s3://").partition("/")
    store = open_store(f"s3://{bucket}", os.environ["AWS_ENDPOINT_URL"])
    return store.open(prefix)


def measure(url: str, endpoint: str | None, options: Namespace) -> dict[str, object]:
    """Let all ways take turns on one store."""
    store = open_store(url, endpoint)
    with tempfile.TemporaryDirectory(prefix="retrain-loaders-") as folder:
        drop = commit(Task(name=LAYOUT.task), store, Path(folder), options.images, options.shard_bytes)
        cache = Path(folder, "cache")
        speeds: dict[str, list[float]] = {}

        def note(what: str, speed: float) -> None:
            speeds.setdefault(what, []).append(speed)

        for _ in range(options.rounds):
            note("held", pass_of(held(drop, store, cache)))
            for workers in WORKERS:
                stream(drop, store, cache, workers)  # has the catalogue made
                shutil.rmtree(cache / "shards")
                note(f"streamed, cold cache, {workers} workers", pass_of(stream(drop, store, cache, workers)))
                note(f"streamed, warm cache, {workers} workers", pass_of(stream(drop, store, cache, workers)))
                note(f"webdataset alone, {workers} workers", webdataset_alone(drop, store, workers))
                note(f"tarfile alone, {workers} workers", tarfile_alone(drop, store, workers))
        medians = {what: round(statistics.median(each)) for what, each in speeds.items()}
    base = medians["webdataset alone, 1 workers"]
    ratios = {what: round(speed / base, 2) for what, speed in medians.items()}
    return {"shards": len(drop.shards), "images_per_second": medians, "against_webdataset_with_1_worker": ratios}


def main() -> None:
    """Compare on a folder, then on an S3 server."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=12_000)
    options.add_argument("--shard-bytes", type=int, default=2_000_000)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    wds.gopen_schemes["s3"] = gopen_s3
    with tempfile.TemporaryDirectory(prefix="retrain-loaders-") as folder:
        figures = {"folder": measure(folder, None, chosen)}
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    os.environ |= {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    boto3.client("s3").create_bucket(Bucket="loaders")
    figures["S3 over HTTP"] = measure("s3://loaders/bench", os.environ["AWS_ENDPOINT_URL"], chosen)
    server.stop()
    report({"images": chosen.images, **figures}, chosen.output)


if __name__ == "__main__":
    main()
