"""Packing validates first and writes the manifest last. The same source gives the same drop."""

import io
import resource
import tarfile
import threading
from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path, PurePosixPath

import pytest
from support.pictures import folder, png, shard_bytes, two_classes
from support.terminal import retrain

from retrain.config import SPLITS
from retrain.config.task import Data, Task
from retrain.data.committing import Packed
from retrain.data.packing import pack, pack_by_shards
from retrain.data.source import survey_source
from retrain.data.staging import Staging
from retrain.errors import DropError, StoreError, UserError
from retrain.store import LocalStore, ObjectStore
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore

TASK = Task(name="pets", data=Data(image_size=8, val_share=0.2, test_share=0.2))
KEYS = TaskKeys("pets")


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_source_becomes_a_committed_drop_in_any_store(tmp_path: Path, store: ObjectStore) -> None:
    before = datetime.now(UTC)
    [(drop, new, *_)] = pack(two_classes(tmp_path / "pets"), TASK, TaskStore(store, TASK.name))
    assert new
    assert drop.source
    assert drop.id == f"d-{drop.source[:12]}"
    assert drop.classes == ("cat", "dog")
    assert drop.held_out == {"val": 0.2, "test": 0.2}
    assert [(shard.split, shard.samples) for shard in drop.shards] == [("train", 80)]
    assert sum(drop.samples(split) for split in drop.counts) == 80
    assert before <= drop.committed_at <= datetime.now(UTC)
    assert TaskStore(store, "pets").drops.all() == (drop,) == (TaskStore(store, "pets").drops.read(drop.id),)
    assert drop.sample_list
    names = "drop.json", drop.shards[0].name, drop.sample_list.name
    assert {entry.key for entry in store.list("pets/drops/")} == {f"pets/drops/{drop.id}/{name}" for name in names}


def test_packing_same_source_gives_same_bytes_and_digest(tmp_path: Path, local: LocalStore) -> None:
    first, second = two_classes(tmp_path / "a"), two_classes(tmp_path / "b")
    elsewhere = LocalStore(tmp_path / "elsewhere")
    [(drop, *_)], [(again, *_)] = (
        pack(first, TASK, TaskStore(local, TASK.name)),
        pack(second, TASK, TaskStore(elsewhere, TASK.name)),
    )
    assert drop.model_copy(update={"committed_at": again.committed_at}) == again
    assert shard_bytes(local, drop) == shard_bytes(elsewhere, again)


def test_shard_mixes_classes_in_an_order_set_by_keys_only(tmp_path: Path, local: LocalStore) -> None:
    names = [f"{name}/{number:03d}.png" for name in ("cat", "dog") for number in range(40)]
    forth, back = folder(tmp_path / "a", *names), tmp_path / "b"
    for name in reversed(names):
        (back / name).parent.mkdir(parents=True, exist_ok=True)
        (back / name).write_bytes((forth / name).read_bytes())
    [(drop, *_)] = pack(forth, TASK, TaskStore(local, TASK.name))
    assert pack(back, TASK, TaskStore(local, TASK.name)) == [Packed(drop, False)]
    [data] = shard_bytes(local, drop)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        classes = [PurePosixPath(name).parent.name for name in tar.getnames() if name.endswith(".png")]
    # About 40 changes of class are expected. Sorted samples would have one.
    assert 30 <= sum(one != other for one, other in pairwise(classes)) <= 50


def test_packing_twice_changes_nothing_and_is_reported(tmp_path: Path, local: LocalStore) -> None:
    source = two_classes(tmp_path / "pets")
    [(drop, *_)] = pack(source, TASK, TaskStore(local, TASK.name))
    before = list(local.list())
    assert pack(source, TASK, TaskStore(local, TASK.name)) == [Packed(drop, False)]
    assert list(local.list()) == before


def test_dry_run_reports_bad_files_among_known_images(tmp_path: Path, local: LocalStore) -> None:
    """The returned manifest is the manifest of the earlier drop."""
    pack(two_classes(tmp_path / "pets"), TASK, TaskStore(local, "pets"))
    again = two_classes(tmp_path / "again", each=5)
    (again / "cat" / "bad.png").write_bytes(b"")
    told: list[str] = []
    [(_, is_new, amendment, refusal)] = pack(again, TASK, TaskStore(local, "pets"), dry_run=True, tell=told.append)
    assert not is_new
    assert amendment
    assert refusal == (
        "1 of 11 samples are bad, and data.max_bad_share allows 0.00%: cat/bad.png: cannot be decoded: the file is "
        "empty: replace or remove it"
    )
    assert (
        told[-1]
        == "1 bad sample left out, the first: cat/bad.png: cannot be decoded: the file is empty: replace or remove it"
    )


def test_dry_run_gives_the_digest_of_the_commit(tmp_path: Path, local: LocalStore) -> None:
    source, staging, store = two_classes(tmp_path / "pets"), Staging.parse("share", "50+50"), TaskStore(local, "pets")
    shown = pack(source, TASK, store, staging=staging, dry_run=True)
    assert list(local.list()) == []
    committed = pack(source, TASK, store, staging=staging)
    assert [packed.drop.digest for packed in shown] == [packed.drop.digest for packed in committed]


def test_dry_run_refuses_what_the_commit_refuses(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The source has known images and bad files, but no new image."""
    source = two_classes(tmp_path / "pets")
    (tmp_path / "pets.yaml").write_text(f"name: pets\nstore: {tmp_path / 'store'}\ndata: {{image_size: 8}}\n")
    command = ["drop", "pack", str(source), "--task", str(tmp_path / "pets.yaml")]
    assert retrain(command, capfd).code == 0
    for name in ("x", "y"):
        (source / "cat" / f"{name}.svg").write_text("<svg/>")
    assert retrain(command, capfd).code == 2
    ran = retrain([*command, "--dry-run"], capfd)
    assert ran.code == 2
    assert "digest" not in ran.out, "the earlier drop's manifest is not shown"
    [*_, last] = ran.out.splitlines()
    assert last.startswith("would be refused: 2 of 82 samples are bad, and data.max_bad_share allows 0.00%: cat/")


def test_dry_run_counts_known_images_as_good_samples(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = two_classes(tmp_path / "pets")
    data = "{image_size: 8, max_bad_share: 0.05}"
    (tmp_path / "pets.yaml").write_text(f"name: pets\nstore: {tmp_path / 'store'}\ndata: {data}\n")
    command = ["drop", "pack", str(source), "--task", str(tmp_path / "pets.yaml")]
    assert retrain(command, capfd).code == 0
    (source / "cat" / "new.png").write_bytes(png(9000))
    (source / "cat" / "bad.png").write_bytes(b"")
    ran = retrain([*command, "--dry-run"], capfd)
    assert ran.code == 0
    assert ran.out.splitlines()[-1].startswith("would be committed as d-")
    assert retrain(command, capfd).code == 0


def test_splits_of_the_source_are_kept(tmp_path: Path, local: LocalStore) -> None:
    names = [f"{split}/cat/{number}.png" for split, size in (("train", 30), ("test", 5)) for number in range(size)]
    [(drop, *_)] = pack(folder(tmp_path / "pets", *names), TASK, TaskStore(local, TASK.name))
    assert drop.held_out == {"val": 0.2}
    assert drop.samples("test") == 5
    assert drop.samples("train") + drop.samples("val") == 30
    assert [shard.split for shard in drop.shards] == ["train", "test"]


def test_each_staging_part_becomes_one_drop(tmp_path: Path, local: LocalStore) -> None:
    source = two_classes(tmp_path / "pets")
    staging = Staging.parse("classes", "1+1")
    [first, second] = pack(source, TASK, TaskStore(local, TASK.name), staging=staging)
    assert {first.drop.classes, second.drop.classes} == {("cat",), ("dog",)}
    assert TaskStore(local, "pets").drops.all() == (first.drop, second.drop)
    assert pack(source, TASK, TaskStore(local, TASK.name), staging=staging, part=2) == [Packed(second.drop, False)]


def test_bad_image_is_refused_and_nothing_is_written(tmp_path: Path, local: LocalStore) -> None:
    source = two_classes(tmp_path / "pets")
    path = source / "dog/039.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DropError, match=r"pets: dog/039\.png: cannot be decoded: "):
        pack(source, TASK, TaskStore(local, TASK.name), staging=Staging.parse("share", "50+50"))
    assert list(local.list()) == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["test/cat/1.png", "val/cat/1.png"],
            "no train samples among 2 samples: a task's first drop needs some to train on",
        ),
        (
            ["cat/0.png", "cat/2.png", "cat/3.png"],
            r"no val samples among 3 samples: none was drawn for the share 0\.2 of val",
        ),
    ],
)
def test_empty_split_is_refused(tmp_path: Path, local: LocalStore, names: list[str], message: str) -> None:
    with pytest.raises(DropError, match=message):
        pack(folder(tmp_path / "pets", *names), TASK, TaskStore(local, TASK.name))
    assert list(local.list()) == []


def test_table_without_rows_is_refused(tmp_path: Path, local: LocalStore) -> None:
    (tmp_path / "labels.csv").write_text("path,label\n")
    with pytest.raises(DropError, match=r"labels\.csv: its table of labels has no rows"):
        pack(tmp_path / "labels.csv", TASK, TaskStore(local, TASK.name))


def test_drop_id_never_gets_other_content(tmp_path: Path, local: LocalStore) -> None:
    [(drop, new, *_)] = pack(two_classes(tmp_path / "a"), TASK, TaskStore(local, TASK.name), drop_id="week-45")
    assert (drop.id, new) == ("week-45", True)
    before = list(local.list())
    with pytest.raises(DropError, match="drop week-45 exists with other content"):
        pack(two_classes(tmp_path / "b", each=41), TASK, TaskStore(local, TASK.name), drop_id="week-45")
    assert list(local.list()) == before


def test_racing_packs_of_one_id_leave_one_complete_drop(tmp_path: Path, store: ObjectStore) -> None:
    sources = [two_classes(tmp_path / str(each), each=each) for each in (40, 41, 42, 43)]
    refused: list[DropError] = []

    def run(source: Path) -> None:
        try:
            pack(source, TASK, TaskStore(store, TASK.name), drop_id="week-45")
        except DropError as error:
            refused.append(error)

    threads = [threading.Thread(target=run, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3
    [drop] = TaskStore(store, "pets").drops.all()
    assert [len(data) for data in shard_bytes(store, drop)] == [shard.size for shard in drop.shards]


@pytest.mark.parametrize("drop_id", ["../up", "a/b", "Week", ".", "-x", "x" * 64])
def test_invalid_drop_id_is_refused(tmp_path: Path, local: LocalStore, drop_id: str) -> None:
    with pytest.raises(DropError, match=r"drop id .*: allowed are"):
        pack(two_classes(tmp_path / "pets"), TASK, TaskStore(local, TASK.name), drop_id=drop_id)


def test_one_drop_id_cannot_name_several_parts(tmp_path: Path, local: LocalStore) -> None:
    source, staging = two_classes(tmp_path / "pets"), Staging.parse("classes", "1+1")
    with pytest.raises(DropError, match="drop id pair: one id cannot name 2 drops"):
        pack(source, TASK, TaskStore(local, TASK.name), staging=staging, drop_id="pair")
    with pytest.raises(DropError, match="part 3 does not exist: the source has 2 parts"):
        pack(source, TASK, TaskStore(local, TASK.name), staging=staging, part=3)


def test_unreadable_image_is_refused_and_nothing_is_committed(tmp_path: Path, local: LocalStore) -> None:
    source = two_classes(tmp_path / "pets")
    found = survey_source(source, TASK.data)
    (source / "cat" / "007.png").unlink()
    with pytest.raises(DropError, match=r"pets: cat/007\.png: cannot be read: No such file or directory"):
        pack_by_shards(found, TASK, TaskStore(local, TASK.name), "d")
    assert list(local.list()) == []


def test_refusal_names_the_first_bad_files_in_order(tmp_path: Path, local: LocalStore) -> None:
    source = two_classes(tmp_path / "pets")
    for name in ("zebra", "b", "a", "c"):
        (source / "cat" / f"{name}.txt").write_text(name)
        (source / "cat" / f"{name}-1.png").write_text("not an image")
    texts, images = (", ".join(f"cat/{name}{end}" for name in ("a", "b", "c", "zebra")) for end in (".txt", "-1.png"))
    with pytest.raises(DropError, match=rf"{texts}: .*pets: {images}: .* data\.max_bad_share$"):
        pack(source, TASK, TaskStore(local, TASK.name))
    some_bad = TASK.model_copy(update={"data": TASK.data.model_copy(update={"max_bad_share": 0.01})})
    with pytest.raises(DropError, match=r"allows 1\.00%: cat/a-1\.png: .*cat/a\.txt: .*cat/b-1\.png: .*cat/zebra\.txt"):
        pack(source, some_bad, TaskStore(local, TASK.name))


def test_full_disk_while_packing_raises_no_drop_error(tmp_path: Path, local: LocalStore) -> None:
    source = two_classes(tmp_path / "pets")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot be written: File too large.*\$TMPDIR") as refused:
            pack(source, TASK, TaskStore(local, TASK.name))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not isinstance(refused.value, DropError)  # a DropError would quarantine an upload
    assert list(local.list()) == []


def test_full_disk_while_unpacking_raises_no_drop_error(tmp_path: Path, local: LocalStore) -> None:
    """The last write before the error writes only a part of its bytes."""
    source = tmp_path / "pets.tar.gz"
    with tarfile.open(source, "w:gz") as archive:
        archive.add(two_classes(tmp_path / "pets"), "pets")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (source.stat().st_size + 1, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot be written: File too large.*\$TMPDIR") as refused:
            pack(source, TASK, TaskStore(local, TASK.name))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not isinstance(refused.value, DropError)


def test_earlier_drops_are_read_once_for_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TaskStore(LocalStore(tmp_path / "store"), "pets")
    for number in range(3):
        pack(two_classes(tmp_path / str(number), first=1000 * number), TASK, store, drop_id=f"d{number}")
    before = {entry.key for entry in store.objects.list() if "samples-" in entry.key or "drop.json" in entry.key}
    read, reads = LocalStore.read, Counter[str]()

    def counted(objects: LocalStore, key: str) -> tuple[bytes, str]:
        reads[key] += 1
        return read(objects, key)

    monkeypatch.setattr(LocalStore, "read", counted)
    pack(two_classes(tmp_path / "new", first=9000), TASK, store, staging=Staging.parse("share", "50+50"))
    assert {key: reads[key] for key in before} == dict.fromkeys(before, 1)


def test_earlier_drops_are_read_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TaskStore(LocalStore(tmp_path / "store"), "pets")
    for number in range(3):
        pack(two_classes(tmp_path / str(number), first=1000 * number), TASK, store, drop_id=f"d{number}")
    read, together = LocalStore.read, threading.Barrier(3, timeout=60)

    def wait_for_the_others(objects: LocalStore, key: str) -> tuple[bytes, str]:
        if "/drops/" in key:
            together.wait()
        return read(objects, key)

    monkeypatch.setattr(LocalStore, "read", wait_for_the_others)
    pack(two_classes(tmp_path / "new", first=9000), TASK, store)


def test_dry_run_does_not_quarantine_a_damaged_drop(tmp_path: Path, local: LocalStore) -> None:
    store = TaskStore(local, "pets")
    (first,) = pack(two_classes(tmp_path / "first"), TASK, store, drop_id="first")
    assert first.drop.sample_list
    local.write(KEYS.drop_file("first", first.drop.sample_list.name), b"damaged")
    before = {entry.key for entry in local.list()}
    for dry_run in (True, False):
        pack(two_classes(tmp_path / "second", first=500), TASK, store, drop_id="second", dry_run=dry_run)
        assert ({entry.key for entry in local.list()} == before) == dry_run
    assert store.drops.quarantine_cause("first")


def test_known_image_is_not_lost_if_its_drop_is_quarantined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TaskStore(LocalStore(tmp_path / "store"), "pets")
    pack(two_classes(tmp_path / "first"), TASK, store, drop_id="first")
    pack(folder(tmp_path / "second", "cat/x.png", first=500), TASK, store, drop_id="second")
    third = folder(folder(tmp_path / "third", "cat/x.png", first=500), "dog/y.png", first=600)
    upload = LocalStore.upload

    def quarantine_meanwhile(objects: LocalStore, path: Path, key: str) -> None:
        upload(objects, path, key)
        store.drops.quarantine("second", "it is damaged")

    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "upload", quarantine_meanwhile)
        with pytest.raises(StoreError, match=r"1 image of drop third was not packed, .*: run the command again$"):
            pack(third, TASK, store, drop_id="third")
    (packed,) = pack(third, TASK, store, drop_id="third")
    assert sum(map(packed.drop.samples, SPLITS)) == 2
