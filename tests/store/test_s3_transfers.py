"""Parallel transfers do not wait for each other's connections, and an error ends only its own transfer."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader
from pathlib import Path

import pytest
from support.faulty_s3 import Forward, Reply, Request, faulty, refusal
from support.pictures import folder

from retrain.config.task import Data, Task
from retrain.data.packing import pack
from retrain.errors import StoreError
from retrain.store import LocalStore, open_store
from retrain.store.s3.transfers import PART, S3Stream, download_parts
from retrain.store.task_store import TaskStore


@pytest.fixture
def busy() -> Iterator[ThreadPoolExecutor]:
    """Yield a thread pool whose only thread is busy until the test ends."""
    free = threading.Event()
    with ThreadPoolExecutor(1) as helpers:
        helpers.submit(free.wait)
        yield helpers
        free.set()


def test_download_ends_while_all_transfer_threads_are_busy(
    s3: str, bucket: str, tmp_path: Path, busy: ThreadPoolExecutor
) -> None:
    content = os.urandom(3 * PART + 5)
    store = open_store(f"s3://{bucket}/t", s3)
    store.write("k", content)
    opened = store.open("k")
    assert isinstance(opened, BufferedReader)
    assert isinstance(opened.raw, S3Stream)

    def unused(start: int, end: int) -> S3Stream:
        raise AssertionError("the helper is busy")

    with opened, (tmp_path / "k").open("xb") as file:
        download_parts(opened.raw, unused, busy, file)
    assert (tmp_path / "k").read_bytes() == content


def test_failed_download_does_not_affect_concurrent_downloads(s3: str, bucket: str, tmp_path: Path) -> None:
    contents = {name: os.urandom(2 * PART + number) for number, name in enumerate(("a", "b", "c"))}
    for name, content in contents.items():
        open_store(f"s3://{bucket}/t", s3).write(name, content)

    def fault(request: Request, forward: Forward) -> Reply:
        ranged = "Range" in request.headers and request.path.endswith("/b")
        return refusal(403, "InvalidAccessKeyId") if ranged else forward(request)

    with faulty(s3, fault) as endpoint, ThreadPoolExecutor(3) as pool:
        store = open_store(f"s3://{bucket}/t", endpoint)
        under_way = {name: pool.submit(store.download, name, tmp_path / name) for name in contents}
        with pytest.raises(StoreError, match=", b: "):
            under_way["b"].result()
        for name in ("a", "c"):
            under_way[name].result()
            assert (tmp_path / name).read_bytes() == contents[name]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]


class Together(LocalStore):
    """A folder store in which each upload waits until another upload has begun."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.begun = threading.Barrier(2)

    def upload(self, path: Path, key: str) -> None:
        self.begun.wait(timeout=60)
        super().upload(path, key)


def test_shards_of_a_drop_are_uploaded_in_parallel(tmp_path: Path) -> None:
    names = [f"{split}/cat/{number}.png" for split, size in (("train", 30), ("test", 5)) for number in range(size)]
    store = Together(tmp_path / "store")
    task = Task(name="pets", data=Data(image_size=8, val_share=0.2, test_share=0.2))
    [(drop, new, *_)] = pack(folder(tmp_path / "pets", *names), task, TaskStore(store, task.name))
    assert new
    assert len(drop.shards) == 2
    landed = {entry.key.rpartition("/")[2] for entry in store.list(f"pets/drops/{drop.id}/")}
    assert drop.sample_list is not None
    assert landed == {"drop.json", drop.sample_list.name, *(shard.name for shard in drop.shards)}
