"""Compare the store's transfers with those of boto3, in MB per second. Objects and number of connections are the same.

`--endpoint-url` and `--bucket` name a server. Without them, the benchmark starts Ceph's gateway on this machine, and
both share the cores. The transfers of boto3 are `upload_file` and `download_file` with several `TransferConfig`s. The
fastest of them counts.

The benchmark also transfers 126 MB, as 14 shards of 9 MB and as 2 shards of 63 MB. The shard cache
fetches them as in a streamed run, with prefetch and digest checks. They are uploaded as in `drop pack`.
"""

import hashlib
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from lib.report import parser, report
from lib.s3 import BUCKET, serving_ceph

from retrain.data.stream.shard_cache import ReadAhead, ShardCache, ShardRef
from retrain.records import Shard
from retrain.store import ObjectStore, open_store
from retrain.store.s3.transfers import CONNECTIONS
from retrain.utils.parallel import map_ahead

MB = 1 << 20
CONFIGS = {
    f"boto3, parts of {part} MB, {connections} connections": TransferConfig(
        multipart_chunksize=part * MB,
        multipart_threshold=part * MB,
        max_concurrency=connections,
        preferred_transfer_client="classic",
    )
    for part, connections in ((8, CONNECTIONS), (16, CONNECTIONS), (8, 4), (64, 1))
}
SHARDS = {"14 shards of 9 MB": (14, 9), "2 shards of 63 MB": (2, 63)}

Works = dict[str, Callable[[], object]]


def speeds(works: Works, megabytes: int, rounds: int) -> dict[str, float]:
    """Alternate between all clients in varying order, and return the median MB per second of each, by wall time."""
    taken = {name: list[float]() for name in works}
    turns = random.Random(0)
    for _ in range(rounds):
        for name in turns.sample(list(works), len(works)):
            began = time.perf_counter()
            works[name]()
            taken[name].append(megabytes / (time.perf_counter() - began))
    return {name: round(statistics.median(each), 1) for name, each in taken.items()}


def compare_with_best(medians: dict[str, float], first: str) -> dict[str, float]:
    """Return the medians, and the ratio of the first client to the best of the others."""
    best = max(median for name, median in medians.items() if name != first)
    return {**medians, f"{first}, against the best other": round(medians[first] / best, 3)}


def time_object(
    store: ObjectStore, client: Any, bucket: str, folder: Path, megabytes: int, rounds: int
) -> dict[str, object]:
    """Return the speeds of uploading and downloading one large object."""
    source, target = folder / "source", folder / "target"
    source.write_bytes(os.urandom(megabytes * MB))
    up: Works = {"store": partial(store.upload, source, "by-retrain")}
    down: Works = {"store": partial(store.download, "by-retrain", target)}
    for name, config in CONFIGS.items():
        up[name] = partial(client.upload_file, str(source), bucket, "by-boto3", Config=config)
        down[name] = partial(client.download_file, bucket, "by-boto3", str(target), Config=config)
    return {
        name: compare_with_best(speeds(works, megabytes, rounds), "store")
        for name, works in (("up", up), ("down", down))
    }


def time_shards(store: ObjectStore, folder: Path, rounds: int) -> dict[str, object]:
    """Return the speeds of uploading and downloading shards of two sizes."""
    up, down = Works(), Works()
    for name, (count, megabytes) in SHARDS.items():
        paths = [folder / f"{megabytes}-{number}" for number in range(count)]
        for path in paths:
            path.write_bytes(os.urandom(megabytes * MB))
        up[name] = partial(upload_shards, store, paths)
        down[name] = partial(fetch_shards, store, [reference_shard(path) for path in paths], folder / "cache")
    total, small = 126, next(iter(SHARDS))
    return {
        name: compare_with_best(speeds(works, total, rounds), small) for name, works in (("up", up), ("down", down))
    }


def reference_shard(path: Path) -> ShardRef:
    """Return the reference to a shard that a streamed run uses."""
    sha256, size = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
    return ShardRef("d", path.name, Shard(name=path.name, split="train", samples=1, size=size, sha256=sha256))


def upload_shards(store: ObjectStore, paths: list[Path]) -> None:
    """Upload files as `drop pack` does."""
    for _ in map_ahead(lambda path: store.upload(path, path.name), paths):
        pass


def fetch_shards(store: ObjectStore, refs: list[ShardRef], folder: Path) -> None:
    """Fetch shards into an empty cache as a streamed run does."""
    cache = ShardCache(store, folder, limit=1 << 30)
    with ReadAhead(cache) as ahead:
        ahead.follow(refs)
        for position, each in enumerate(refs):
            ahead.reach(position)
            cache.hold(each).close()
    shutil.rmtree(folder)


def main() -> None:
    """Run the measurements, and report them."""
    options = parser(__doc__)
    options.add_argument("--bucket", default=BUCKET)
    options.add_argument("--endpoint-url", help="address of an S3 server (default: start a Ceph gateway)")
    options.add_argument("--megabytes", type=int, default=64)
    options.add_argument("--rounds", type=int, default=7)
    chosen = options.parse_args()
    server = nullcontext(chosen.endpoint_url) if chosen.endpoint_url else serving_ceph()
    with tempfile.TemporaryDirectory(prefix="retrain-s3-") as name, server as endpoint:
        folder, store = Path(name), open_store(f"s3://{chosen.bucket}", endpoint)
        client: Any = boto3.client("s3", endpoint_url=endpoint)
        figures: dict[str, object] = {
            "MB a second": {
                f"one object of {chosen.megabytes} MB": time_object(
                    store, client, chosen.bucket, folder, chosen.megabytes, chosen.rounds
                ),
                "shards": time_shards(store, folder, chosen.rounds),
            },
            "rounds": chosen.rounds,
        }
    report(figures, chosen.output)


if __name__ == "__main__":
    main()
