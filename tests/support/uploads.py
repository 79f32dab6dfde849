"""Make good and bad uploads of producers: shards from given members, and drops with `_SUCCESS` as the last file."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from retrain.config.task import Data, Task
from retrain.store import ObjectStore
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore
from retrain.watcher.ingestion import validate_drop
from support.pictures import png

Member = tuple[str | tarfile.TarInfo, bytes]


def task_in(folder: Path, **data: object) -> Task:
    """Return a task whose store is in a folder."""
    settings = Data.model_validate({"image_size": 8, "val_share": 0.2, "test_share": 0.2} | data)
    return Task(name="pets", store=str(folder / "store"), data=settings)


def shard(members: Iterable[Member], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar file of these members in this order. A bare name stands for a plain file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            if data:
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def good(count: int = 60, first: int = 0) -> list[Member]:
    """Return the members of valid samples. Cats and dogs alternate."""
    return [
        member
        for number in range(first, first + count)
        for member in ((f"{number:06d}.png", png(number)), (f"{number:06d}.cls", (b"cat", b"dog")[number % 2]))
    ]


def upload(store: ObjectStore, drop: str, files: Mapping[str, bytes]) -> None:
    """Upload a drop as a producer does, with `_SUCCESS` last."""
    for name, data in {**files, "_SUCCESS": b""}.items():
        store.write(TaskKeys("pets").drop_file(drop, name), data)


def ingest_as_watcher(task: Task, store: ObjectStore, drop: str, files: Mapping[str, bytes]) -> str | None:
    """Upload a drop, and ingest it as the watcher does. Return the reason of its quarantine, or None."""
    upload(store, drop, files)
    cause = validate_drop(task, drop).cause
    if cause is not None:
        TaskStore(store, "pets").drops.quarantine(drop, cause)
    return cause
