"""Measure the watcher: its memory with many events and objects, and the time of one poll of a whole bucket.

The memory is measured in `retrain watch`, and the polls in a subprocess. A server in this process acts as S3 and SQS,
with all objects in memory (`lib/aws.py`). With `--store` and `--endpoint-url`, the bucket is on another S3 server and
is filled first. Only the queue is then in this process.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

from lib.aws import Aws, serving
from lib.report import parser, report
from lib.spent import peak_mb

from retrain.config.task import Task
from retrain.pipeline.executor import InProcessExecutor
from retrain.records import Drop, Shard
from retrain.records.drop import drop_digest
from retrain.store import open_store
from retrain.store.keys import TaskKeys
from retrain.watcher.health import Health
from retrain.watcher.task_watch import TaskWatch

KEYS, SHARDS = TaskKeys("bench"), 199
START = datetime(2020, 1, 1, tzinfo=UTC)
EVENT = json.dumps(
    {"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "%s"}, "object": {"key": "%s"}}}]}
)


def make_drop(number: int) -> Drop:
    """Return a committed drop of 200 objects."""
    shards = tuple(
        Shard(name=f"train-{index:06d}-00000000.tar", split="train", samples=1000, size=64_000_000, sha256="0" * 64)
        for index in range(SHARDS)
    )
    counts = {"train": {"cat": 160 * SHARDS, "dog": 160 * SHARDS}}
    landed = START + timedelta(hours=number)
    unnamed = Drop(
        id=f"drop-{number:05d}",
        task=KEYS.task,
        classes=("cat", "dog"),
        shards=shards,
        counts=counts,
        held_out={"val": 0.1, "test": 0.1},
        digest="",
        committed_at=landed,
    )
    return unnamed.model_copy(update={"digest": drop_digest(unnamed)})


def bucket(objects: int) -> Iterator[tuple[str, bytes]]:
    """Yield the keys and bodies of about this number of objects. They form complete drops."""
    for number in range(objects // (SHARDS + 1)):
        landed = make_drop(number)
        for shard in landed.shards:
            yield KEYS.drop_file(landed.id, shard.name), b"x"
        yield KEYS.manifest(landed.id), landed.to_bytes()


def poll_twice(url: str, endpoint_url: str) -> dict[str, float]:
    """Return the wall times of two polls in seconds. The first poll reads all manifests.

    The processor time of the first poll excludes the server, because the server is another process.
    """
    task = Task(name=KEYS.task, store=url, endpoint_url=endpoint_url)
    watch = TaskWatch(task, InProcessExecutor("cpu"), Health([task.name]))
    since, cpu_since = time.perf_counter(), time.process_time()
    watch.check_drops()
    first, cpu = time.perf_counter(), time.process_time() - cpu_since
    watch.check_drops()
    later = time.perf_counter() - first
    return {
        "first_poll_s": round(first - since, 2),
        "first_poll_cpu_s": round(cpu, 2),
        "later_poll_s": round(later, 2),
    }


@contextmanager
def watcher(url: str, endpoint_url: str, queue: str, folder: str) -> Iterator[int]:
    """Start `retrain watch` and yield the id of its process. There is no Kubeflow, so every submission fails."""
    file = Path(folder, "bench.yaml")
    file.write_text(f"name: {KEYS.task}\nstore: {url}\nendpoint_url: {endpoint_url}\n")
    command = [sys.executable, "-m", "retrain", "watch", "--task", str(file), "--port", "0", "--poll-seconds", "30"]
    process = subprocess.Popen(
        [*command, "--queue-url", f"{queue}/1/queue", "--on", "kubeflow", "--host", "http://127.0.0.1:1"]
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def measure_memory(aws: Aws, queue: str, url: str, endpoint_url: str, events: int, drops: int) -> dict[str, object]:
    """Return the watcher's peak memory after it has listed all objects, claimed the drops and read all events."""
    bucket_name, _, prefix = f"{url.removeprefix('s3://')}/".partition("/")
    names = [f"{prefix}{KEYS.drops}drop-{number % drops:05d}/drop.json" for number in range(events)]
    aws.messages.extend(EVENT % (bucket_name, name) for name in names)
    store = open_store(url, endpoint_url)
    with tempfile.TemporaryDirectory() as folder, watcher(url, endpoint_url, queue, folder) as pid:
        since = time.perf_counter()
        while aws.messages or not any(store.list(KEYS.claims)):
            time.sleep(0.5)
        seconds = time.perf_counter() - since
        time.sleep(10)
        return {"events": events, "until_all_are_read_s": round(seconds, 1), "peak_mb": peak_mb(pid)}


def fill_bucket(url: str, endpoint_url: str, objects: int) -> None:
    """Write a bucket's objects."""
    store = open_store(url, endpoint_url)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda item: store.write(*item), bucket(objects)))


def main() -> None:
    """Fill the bucket, time two polls, and measure the watcher's memory."""
    options = parser(__doc__)
    options.add_argument("--objects", type=int, default=100_000, help="number of objects in the bucket")
    options.add_argument("--events", type=int, default=10_000, help="number of events in the queue")
    options.add_argument("--store", help="s3://bucket/prefix on another server, to be filled and watched")
    options.add_argument("--endpoint-url", help="address of that server")
    chosen = options.parse_args()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ.setdefault(name, "bench")
    os.environ.update({"AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "127.0.0.1"})
    aws = Aws()
    with serving(aws) as queue:
        url, endpoint_url = chosen.store or "s3://bench", chosen.endpoint_url or queue
        if chosen.store:
            fill_bucket(url, endpoint_url, chosen.objects)
        else:
            aws.fill(dict(bucket(chosen.objects)))
        with get_context("spawn").Pool(1) as pool:
            polled = pool.apply(poll_twice, (url, endpoint_url))
        watched = measure_memory(aws, queue, url, endpoint_url, chosen.events, chosen.objects // (SHARDS + 1))
    report({"objects": chosen.objects, **polled, **watched}, chosen.output)


if __name__ == "__main__":
    main()
