"""The store's transfers beside boto3's own: the same object and as many connections, in turns, MB a second.

`--endpoint-url` and `--bucket` name a server; without them, moto's is started in this process, which shares its time.
boto3's are `upload_file` and `download_file` under several `TransferConfig`s, of which the best counts; the store's is
`S3Store`'s only way. Shards: as many bytes in 8 small ones as in 2 large ones, one after the other, by the store.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from lib.report import parser, report
from moto.server import ThreadedMotoServer

from retrain.store import open_store
from retrain.store.s3_parts import CONNECTIONS

MB = 1 << 20
CONFIGS = {
    f"{part} MB parts, {connections} connections": TransferConfig(
        multipart_chunksize=part * MB,
        multipart_threshold=part * MB,
        max_concurrency=connections,
        preferred_transfer_client="classic",
    )
    for part, connections in ((8, CONNECTIONS), (16, CONNECTIONS), (8, 4), (64, 1))
}


def speed(megabytes: int, work: Callable[[], object]) -> float:
    """MB a second, by wall time."""
    began = time.perf_counter()
    work()
    return megabytes / (time.perf_counter() - began)


def compare(works: dict[str, Callable[[], object]], megabytes: int, rounds: int) -> dict[str, object]:
    """Let every way take turns; return each one's median, and the store's against boto3's best."""
    speeds = {name: list[float]() for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            speeds[name].append(speed(megabytes, work))
    medians = {name: round(statistics.median(each), 1) for name, each in speeds.items()}
    best = max(median for name, median in medians.items() if name != "store")
    return {**medians, "store against the best of the others": round(medians["store"] / best, 3)}


def measure(folder: Path, bucket: str, endpoint: str | None, megabytes: int, rounds: int) -> dict[str, object]:
    """Upload and download one large object, and shards of two sizes."""
    client: Any = boto3.client("s3", endpoint_url=endpoint)
    store, source, target = open_store(f"s3://{bucket}/benchmark", endpoint), folder / "source", folder / "target"
    source.write_bytes(os.urandom(megabytes * MB))
    for number in range(8):
        store.write(f"small-{number}", os.urandom(megabytes * MB // 8))
    for number in range(2):
        store.write(f"large-{number}", os.urandom(megabytes * MB // 2))
    up = {
        name: partial(client.upload_file, str(source), bucket, "theirs", Config=each) for name, each in CONFIGS.items()
    }
    down = {
        name: partial(client.download_file, bucket, "theirs", str(target), Config=each)
        for name, each in CONFIGS.items()
    }

    def shards(name: str, count: int) -> None:
        for number in range(count):
            store.download(f"{name}-{number}", target)

    uploads = compare({"store": partial(store.upload, source, "ours"), **up}, megabytes, rounds)
    downloads = compare({"store": partial(store.download, "ours", target), **down}, megabytes, rounds)
    small = compare(
        {"store": partial(shards, "small", 8), "2 large shards": partial(shards, "large", 2)}, megabytes, rounds
    )
    return {"megabytes": megabytes, "rounds": rounds, "upload": uploads, "download": downloads, "8 small shards": small}


@contextmanager
def serving(endpoint: str | None) -> Iterator[str]:
    """The server that is named, or one of moto's with the bucket in it."""
    if endpoint:
        yield endpoint
        return
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="benchmark")
    yield f"http://{host}:{port}"
    server.stop()


def main() -> None:
    """Measure."""
    options = parser(__doc__)
    options.add_argument("--bucket", default="benchmark")
    options.add_argument("--endpoint-url", help="moto's own server if absent")
    options.add_argument("--megabytes", type=int, default=128)
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="retrain-s3-") as folder, serving(chosen.endpoint_url) as endpoint:
        figures = measure(Path(folder), chosen.bucket, endpoint, chosen.megabytes, chosen.rounds)
    report(figures, chosen.output)


if __name__ == "__main__":
    main()
