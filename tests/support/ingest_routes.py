"""Ingest files by each route: packed by a command, or uploaded with `_SUCCESS` to S3 or to a folder."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import boto3

from retrain.config.task import Data, Task
from retrain.data.packing import pack
from retrain.data.shards import read_samples
from retrain.data.tars import HashingReader
from retrain.data.uploads import ingest_drop
from retrain.records import Drop
from retrain.store import LocalStore, open_store
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore
from retrain.utils.parallel import map_ahead
from support.pictures import png
from support.uploads import shard, upload

DROP = "week-45"
Files = dict[str, bytes]
IngestFunction = Callable[[Task, TaskStore, str, Files], Drop]
"""A function that ingests files as a drop of a task, under this id. It may raise `DropError`."""


def ingest(drop_id: str, task: Task, store: TaskStore) -> Drop:
    """Commit an upload. If it only amends earlier drops, return one of the amended drops, as `pack` does."""
    ended = ingest_drop(drop_id, task, store)
    return ended if isinstance(ended, Drop) else store.drops.read(ended.changes[0].drop)


class IngestRoute(NamedTuple):
    """A route by which files become a drop. It has a folder for the files and a store for the drop."""

    source: Path | None
    """The folder that is packed; None if files are uploaded."""
    store: TaskStore
    bucket: str = ""
    endpoint: str = ""

    def ingest(self, files: Files, **data: object) -> Drop:
        """Pack or upload files as one drop, and return it. Raises `DropError`."""
        settings = Data.model_validate({"image_size": 8, "val_share": 0.3, "test_share": 0.3} | data)
        task = Task(name="pets", data=settings)
        if self.source is None:
            self._upload(files) if self.bucket else upload(self.store.objects, DROP, files)
            return ingest(DROP, task, self.store)
        for name, content in files.items():
            path = self.source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return pack(self.source, task, self.store, drop_id=DROP)[0].drop

    def _upload(self, files: Files) -> None:
        """Write objects under exactly these keys, even if no store of this project would write such keys."""
        client = boto3.client("s3", endpoint_url=self.endpoint)
        prefix = TaskKeys("pets").drop_file(DROP, "")

        def put(name: str) -> None:
            client.put_object(Bucket=self.bucket, Key=f"{prefix}{name}", Body=files.get(name, b""))

        list(map_ahead(put, files))
        put("_SUCCESS")
        client.close()

    def labels(self, drop: Drop) -> dict[str, str]:
        """Return the class of every sample in the drop's shards, by its key."""
        return {key: files["cls"].decode().strip() for _, key, files in self.samples(drop)}

    def samples(self, drop: Drop) -> list[tuple[str, str, dict[str, bytes]]]:
        """Return every sample in the drop's shards: the split of its shard, its key, and its files by extension."""
        found: list[tuple[str, str, dict[str, bytes]]] = []
        for one in drop.shards:
            with self.store.objects.open(self.store.keys.drop_file(drop.id, one.name)) as stream:
                found += [(one.split, key, files) for key, files in read_samples(HashingReader(stream), one.name)]
        return found


def open_route(name: str, folder: Path, bucket: str = "", endpoint: str = "") -> IngestRoute:
    """Return the route of this name, `pack`, `upload` (to a folder) or `s3`, with an empty store."""
    objects = open_store(f"s3://{bucket}", endpoint) if name == "s3" else LocalStore(folder / "store")
    return IngestRoute(folder / "source" if name == "pack" else None, TaskStore(objects, "pets"), bucket, endpoint)


def tree(*classes: str, each: int = 12, suffix: str = ".png") -> dict[str, bytes]:
    """Return the files of class folders: `cat/0.png`, ..."""
    return {
        f"{name}/{number}{suffix}": png(100 * position + number)
        for position, name in enumerate(classes)
        for number in range(each)
    }


def zipped(files: Files, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip file of these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def ingest_packed(task: Task, store: TaskStore, drop_id: str, files: Files) -> Drop:
    """Pack a folder."""
    root = Path(task.store).parent / f"source-{drop_id}"
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return pack(root, task, store, drop_id=drop_id)[0].drop


def ingest_uploaded_images(task: Task, store: TaskStore, drop_id: str, files: Files) -> Drop:
    """Upload a tree of images, and `_SUCCESS` last."""
    upload(store.objects, drop_id, files)
    return ingest(drop_id, task, store)


def ingest_uploaded_shards(task: Task, store: TaskStore, drop_id: str, files: Files) -> Drop:
    """Upload shards, and `_SUCCESS` last. The keys of the samples are numbers."""
    members: dict[str, list[tuple[str, bytes]]] = {}
    for number, (name, data) in enumerate(files.items()):
        parts = name.split("/")
        split = parts[0] if len(parts) == 3 else "train"
        key = f"{drop_id}-{number:05d}"
        members.setdefault(split, []).extend([(f"{key}.png", data), (f"{key}.cls", parts[-2].encode())])
    upload(store.objects, drop_id, {f"{split}.tar": shard(found) for split, found in members.items()})
    return ingest(drop_id, task, store)


INGEST_FUNCTIONS: tuple[IngestFunction, ...] = (ingest_packed, ingest_uploaded_images, ingest_uploaded_shards)
