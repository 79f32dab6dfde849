"""Uploads without a manifest are validated, and then committed unchanged, packed into shards, or refused."""

import io
import tarfile
import time
from functools import partial
from pathlib import Path

import pytest
from support.ingest_routes import ingest
from support.pictures import png, shard_bytes, tar

from retrain.config.task import Data, Task
from retrain.data.cache import decode_drop
from retrain.data.files import list_store
from retrain.data.packing import ON_DISK
from retrain.data.shards import write_shards
from retrain.data.uploads import ingest_drop
from retrain.errors import DropError
from retrain.store import LocalStore, ObjectStore
from retrain.store.drops import Quarantine
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore

TASK = Task(name="pets", data=Data(image_size=8, val_share=0.2, test_share=0.2))
KEYS = TaskKeys("pets")
DROP = "week-45"


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def webdataset(*numbers: int) -> bytes:
    """Return a shard as producers write it: keys without folders, and the class's name in a separate file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in numbers:
            for name, data in ((f"{number:06d}.png", png(number)), (f"{number:06d}.cls", (b"cat", b"dog")[number % 2])):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def photos() -> dict[str, bytes]:
    """Return images in a folder for each class."""
    names = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(40)]
    return {name: png(number) for number, name in enumerate(names)}


def upload(store: ObjectStore, files: dict[str, bytes]) -> None:
    """Upload a drop as a producer does, `_SUCCESS` last."""
    for name, data in {**files, "_SUCCESS": b""}.items():
        store.write(KEYS.drop_file(DROP, name), data)


def test_uploaded_shards_are_committed_in_place(store: ObjectStore) -> None:
    shards = {"train-0.tar": webdataset(*range(30)), "train-1.tar": webdataset(*range(30, 60))}
    upload(store, shards | {"test.tar": webdataset(*range(60, 65))})
    drop = ingest(DROP, TASK, TaskStore(store, TASK.name))
    assert drop.id == DROP
    assert drop.classes == ("cat", "dog")
    assert [(shard.name, shard.split, shard.samples) for shard in drop.shards] == [
        ("test.tar", "test", 5),
        ("train-0.tar", "train", 30),
        ("train-1.tar", "train", 30),
    ]
    assert drop.held_out == {"val": 0.2}
    assert drop.samples("test") == 5
    assert drop.samples("train") + drop.samples("val") == 60
    assert shard_bytes(store, drop)[1:] == list(shards.values())
    assert TaskStore(store, "pets").drops.all() == (drop,)
    splits = decode_drop(drop, TaskStore(store, "pets"), 8)
    assert {split: len(arrays.labels) for split, arrays in splits.items()} == {
        split: drop.samples(split) for split in drop.counts
    }


def test_tree_of_images_is_packed_under_the_same_id(store: ObjectStore) -> None:
    upload(store, photos())
    drop = ingest(DROP, TASK, TaskStore(store, TASK.name))
    assert (drop.id, drop.classes) == (DROP, ("cat", "dog"))
    assert sum(drop.samples(split) for split in drop.counts) == 80
    assert ingest_drop(DROP, TASK, TaskStore(store, TASK.name)) == drop


class ShardCountingStore(LocalStore):
    """A store that accepts a shard only when two shards are on the disk. `most` is the largest number on the disk."""

    most = 0

    def upload(self, path: Path, key: str) -> None:
        while self.most < 2 and len(list(path.parent.glob("train-*.tar"))) < 2:
            time.sleep(0.01)
        self.most = max(self.most, len(list(path.parent.glob("train-*.tar"))))
        super().upload(path, key)


@pytest.fixture
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make packing write shards of three images."""
    monkeypatch.setattr("retrain.data.packing.write_shards", partial(write_shards, limit=3 * len(png(0))))


@pytest.mark.usefixtures("_small_shards")
def test_packing_a_large_folder_keeps_few_shards_on_disk(tmp_path: Path) -> None:
    local = ShardCountingStore(tmp_path / "store")
    upload(local, photos())
    drop = ingest(DROP, TASK, TaskStore(local, TASK.name))
    assert len(drop.shards) > 3 * ON_DISK
    assert 1 < local.most <= ON_DISK
    assert [len(data) for data in shard_bytes(local, drop)] == [shard.size for shard in drop.shards]
    assert sum(len(arrays.labels) for arrays in decode_drop(drop, TaskStore(local, "pets"), 8).values()) == 80


@pytest.mark.usefixtures("_small_shards")
def test_shards_of_a_refused_folder_do_not_block_a_new_upload(local: LocalStore) -> None:
    upload(local, photos() | {"cat/1.png": png(1)[:60]})
    with pytest.raises(DropError, match=r"cat/1\.png: cannot be decoded"):
        ingest_drop(DROP, TASK, TaskStore(local, TASK.name))
    assert [entry.key for entry in local.list(KEYS.drops) if entry.key.endswith(".tar")]
    assert TaskStore(local, "pets").drops.all() == ()
    upload(local, photos())
    assert sum(map(ingest(DROP, TASK, TaskStore(local, TASK.name)).samples, ("train", "val", "test"))) == 80


def test_interrupted_upload_can_be_ingested_again(local: LocalStore) -> None:
    upload(local, photos())
    drop = ingest(DROP, TASK, TaskStore(local, TASK.name))
    local.delete(KEYS.manifest(DROP))
    assert ingest_drop(DROP, TASK, TaskStore(local, TASK.name)).digest == drop.digest


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.tar": webdataset(*range(30))[:5000]}, r"week-45/train\.tar: "),
        ({"train.tar": webdataset(1, 2, 1)}, r"week-45/train\.tar: 000001: duplicate key"),
        ({"train-0.tar": webdataset(1), "train-1.tar": webdataset(1)}, r"train-1\.tar: 000001: duplicate key"),
        (
            {"more.tar": webdataset(1), "photos.tar": webdataset(1)},
            r"photos\.tar: the archive's name does not state its split",
        ),
        ({"train.tar": webdataset(1), "cat/1.png": png(1)}, r"week-45: cat/1\.png: no label"),
        (photos() | {"cat/1.png": png(1)[:60]}, r"store/pets/drops/week-45: cat/1\.png: cannot be decoded"),
        ({"train.tar": webdataset(1)}, "no val samples among 1"),
        ({}, "no training image in it"),
        (photos() | {"packed": b"x"}, "week-45: packed/ is the folder of the packed shards: rename the file `packed`"),
    ],
)
def test_bad_drop_is_refused_by_shard_key_and_cause(local: LocalStore, files: dict[str, bytes], message: str) -> None:
    upload(local, files)
    with pytest.raises(DropError, match=message):
        ingest_drop(DROP, TASK, TaskStore(local, TASK.name))
    assert TaskStore(local, "pets").drops.all() == ()


def test_member_path_outside_the_archive_is_refused(local: LocalStore, tmp_path: Path) -> None:
    upload(local, {"train.tar": tar(tmp_path / "x.tar", [("../cat/1.png", png(1))]).read_bytes()})
    with pytest.raises(DropError, match=r"train\.tar: \.\./cat/1\.png: the path is absolute or contains"):
        ingest_drop(DROP, TASK, TaskStore(local, TASK.name))


def test_quarantined_drop_is_unused_until_its_report_is_deleted(local: LocalStore) -> None:
    upload(local, {"train.tar": webdataset(*range(40))})
    drop = ingest(DROP, TASK, TaskStore(local, TASK.name))
    TaskStore(local, "pets").drops.quarantine(DROP, "the labels are wrong")
    TaskStore(local, "pets").drops.quarantine(DROP, "a later finding")
    assert TaskStore(local, "pets").drops.all() == ()
    report = Quarantine.model_validate_json(local.read(KEYS.quarantine(DROP))[0])
    assert (report.drop, report.task, report.cause) == (DROP, "pets", "the labels are wrong")
    local.delete(KEYS.quarantine(DROP))
    assert TaskStore(local, "pets").drops.all() == (drop,)


def test_link_to_a_missing_file_is_reported(tmp_path: Path) -> None:
    """In a store that is a folder, a producer may link images instead of copying them."""
    store = LocalStore(tmp_path / "store")
    folder = store.root / "pets/drops/week/cat"
    folder.mkdir(parents=True)
    (tmp_path / "kept.png").write_bytes(png(1))
    (folder / "1.png").symlink_to(tmp_path / "kept.png")
    (folder / "2.png").symlink_to(tmp_path / "gone.png")
    found = {str(file.name): file.problem for file in list_store(store, "pets/drops/week/")}
    assert found == {"cat/1.png": "", "cat/2.png": "it is a link that leads nowhere; upload the file itself"}
