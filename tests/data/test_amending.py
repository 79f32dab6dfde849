"""Corrections of committed drops are checked together, stored as an amendment, and used by every reader."""

import shutil
from getpass import getuser
from pathlib import Path

import pytest
from support.pictures import folder, two_classes
from support.terminal import retrain
from support.uploads import good, shard, task_in, upload

from retrain.config.task import Task
from retrain.data.amending import amend_drops, read_corrections
from retrain.data.packing import pack
from retrain.data.table_making import read_or_make_table
from retrain.data.uploads import ingest_drop
from retrain.errors import DamagedDrop, DropError
from retrain.store import LocalStore
from retrain.store.task_store import TaskStore, open_task_store


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return task_in(tmp_path)


@pytest.fixture
def store(task: Task, tmp_path: Path) -> TaskStore:
    store = open_task_store(task)
    pack(two_classes(tmp_path / "pets"), task, store, drop_id="first")
    return store


def amend(task: Task, store: TaskStore, tmp_path: Path, text: str, name: str = "corrections.csv") -> bool:
    """Amend drops with a table of corrections, and return whether an amendment was written."""
    (tmp_path / name).write_text(text)
    return amend_drops(read_corrections(tmp_path / name), task, store) is not None


def uses(store: TaskStore) -> dict[str, tuple[str, str]]:
    table = read_or_make_table(store.drops.read("first"), store)
    return {key: (table.use[row].item(), table.class_of(row)) for row, key in enumerate(table.keys)}


def test_corrections_change_classes_and_remove_samples(task: Task, store: TaskStore, tmp_path: Path) -> None:
    before, drop = uses(store), store.drops.read("first")
    text = "key,class,remove,reason,author\ncat/001,dog,,mislabelled,ann\ncat/002,,yes,blurred,ann\n"
    assert amend(task, store, tmp_path, text)
    after, now = uses(store), store.drops.read("first")
    assert after["cat/001"] == (before["cat/001"][0], "dog")
    assert {key for key in after if after[key] != before[key]} == {"cat/001", "cat/002"}
    assert sum(map(now.samples, ("train", "val", "test"))) == 79
    assert [(change.key, change.reason, change.author) for change in now.changes] == [
        ("cat/001", "mislabelled", "ann"),
        ("cat/002", "blurred", "ann"),
    ]
    assert not amend(task, store, tmp_path, text)
    content = now.changes[1].content
    assert amend(task, store, tmp_path, f'{{"content": "{content}", "class": "cat"}}', "back.JSONL")
    assert amend(task, store, tmp_path, "key,class\ncat/001,cat\n")
    assert store.drops.read("first") == drop
    assert len(store.drops.amendments.read()) == 3


def test_correction_may_name_the_path_of_an_image(task: Task, store: TaskStore, tmp_path: Path) -> None:
    """If a text is the key of one image and the path of another, the key decides."""
    names = ["owl eye/a b.png", "owl eye/a%20b.png", "owl eye/\u00fc.png", "cat/x.png"]
    pack(folder(tmp_path / "owls", *names, first=500), task, store, drop_id="second")
    text = "key,class\nowl eye/a b.png,cat\nowl eye/u\u0308,cat\nowl%20eye/a%2520b,dog\n"
    assert amend(task, store, tmp_path, text)
    changes = store.drops.read("second").changes
    assert {(change.key, change.after) for change in changes} == {
        ("owl%20eye/a%20b", "cat"),
        ("owl%20eye/%C3%BC", "cat"),
        ("owl%20eye/a%2520b", "dog"),
    }
    with pytest.raises(DropError, match="line 3: owl eye/a b has another correction"):
        amend(task, store, tmp_path, "key,class\nowl eye/a b,dog\nowl%20eye/a%20b,bird\n")
    assert amend(task, store, tmp_path, "key,class\nowl%20eye/a%20b,dog\n")


def test_key_in_several_drops_needs_the_drops_id(task: Task, store: TaskStore, tmp_path: Path) -> None:
    pack(two_classes(tmp_path / "more", first=1000), task, store, drop_id="second")
    with pytest.raises(
        DropError, match=r"cat/001 is the key of 2 samples \(first, second\): give its drop or its content"
    ):
        amend(task, store, tmp_path, "key,class\ncat/001,dog\n")
    assert amend(task, store, tmp_path, "drop,key,class\nsecond,cat/001,dog\n")
    assert store.drops.read("first").changes == ()


def test_removed_image_is_not_added_again(task: Task, store: TaskStore, tmp_path: Path) -> None:
    amend(task, store, tmp_path, "key,remove\ncat/002,yes\n")
    pack(two_classes(tmp_path / "more", each=40), task, store, drop_id="same")
    [drop] = store.drops.all()
    assert sum(map(drop.samples, ("train", "val", "test"))) == 79


def test_removed_image_that_was_uploaded_again_is_restored(task: Task, tmp_path: Path) -> None:
    """The later drop left the image out, so only the change of the first drop is undone."""
    store = open_task_store(task)
    for drop, members in (("first", good(60)), ("second", [*good(1, 2), *good(60, 100)])):
        upload(store.objects, drop, {"train.tar": shard(members)})
        ingest_drop(drop, task, store)
        if drop == "first":
            assert amend(task, store, tmp_path, "key,remove\n000002,yes\n")
    [change] = store.drops.read("first").changes
    assert amend(task, store, tmp_path, f"content,class\n{change.content},cat\n")
    assert store.drops.read("first").changes == store.drops.read("second").changes == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key,class\ncat/001,dog\ncat/999,dog\n", r"corrections\.csv: line 3: cat/999 matches no sample of any drop"),
        ("key,drop,class\ncat/001,other,dog\n", "line 2: cat/001 matches no sample of drop other"),
        ("key,class\n,dog\n", "line 2: has neither a key nor a content"),
        ("key,class,remove\ncat/001,dog,yes\n", "line 2: has both a class and remove: yes; give one of them"),
        ("key,class,remove\ncat/001,,perhaps\n", "line 2: remove is 'perhaps'; allowed: yes, no"),
        ("key,label\ncat/001,dog\n", "unknown column 'label'; allowed: drop, key"),
        ("key;class\ncat/001;dog\n", r"unknown column 'key;class'; .*\. Separate columns by commas"),
        ("content,class\nxyz,dog\n", "line 2: 'xyz' is not a content digest in hex"),
        (
            "key,class\ncat/001,dog\ncat/001,bird\n",
            "line 3: cat/001 has another correction in .*: remove one of them",
        ),
        ("key,class\ncat/001,\n,dog\n", r"line 2: has neither a class .*\n.*: line 3: has neither a key"),
        ("key,class\nx,dog\ncat/001,dog\ny,dog\n", r"line 2: x matches no .*\n.*: line 4: y matches no sample"),
        ("key,class\n" + "x,dog\n" * 12, r"line 11: x matches no .*\nand 2 more wrong lines$"),
        ("key,class\n", "has no line with a sample; expected columns"),
        (f"key,class\n{'x' * 200_000},dog\n", r"corrections\.csv: cannot be read: field larger than"),
        ('key,class,reason\ncat/001,dog,"was cat\ncat/002,dog,\n', "cannot be read: unexpected end of data; check its"),
        ("key,class,class\ncat/001,cat,dog\n", "two columns are called 'class': rename or remove one of them"),
    ],
)
def test_wrong_correction_is_refused_and_changes_nothing(
    task: Task, store: TaskStore, tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DropError, match=message):
        amend(task, store, tmp_path, text)
    assert store.drops.amendments.read() == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"key": "cat/001", "class": ["dog"]}', r"line 1: class is \['dog'\]; expected text or a whole number"),
        ('{"key": "cat/001", "class": 1.5}', r"line 1: class is 1\.5; expected text or a whole number"),
        ('{"key": "cat/001", "class": NaN}', "line 1: has neither a class nor remove: yes"),
        ("[" * 100_000, "line 1: not JSON: maximum recursion depth exceeded"),
    ],
)
def test_json_value_that_is_no_text_is_refused(
    task: Task, store: TaskStore, tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DropError, match=message):
        amend(task, store, tmp_path, text, "corrections.jsonl")


def test_corrections_do_not_apply_to_another_drop_of_the_same_id(task: Task, store: TaskStore, tmp_path: Path) -> None:
    assert amend(task, store, tmp_path, "key,class\ncat/001,dog\n")
    prefix = store.keys.drop_file("first", "")
    shutil.rmtree(tmp_path / "store" / prefix)
    other = two_classes(tmp_path / "other", first=500)
    with pytest.raises(
        DropError, match="amendments correct other images of a former drop with this id: choose another"
    ):
        pack(other, task, store, drop_id="first")
    elsewhere = TaskStore(LocalStore(tmp_path / "elsewhere"), "pets")
    pack(other, task, elsewhere, drop_id="first")
    shutil.copytree(tmp_path / "elsewhere" / prefix, tmp_path / "store" / prefix, dirs_exist_ok=True)
    with pytest.raises(DamagedDrop, match="so it was replaced under its id"):
        uses(store)
    shutil.rmtree(tmp_path / "store" / prefix)
    pack(tmp_path / "pets", task, store, drop_id="first")
    assert uses(store)["cat/001"][1] == "dog"


def test_invisible_characters_in_a_correction_are_removed(task: Task, store: TaskStore, tmp_path: Path) -> None:
    assert amend(task, store, tmp_path, "key,class\ncat/001,dog\u200b\ncat/002,big\u00a0dog\n")
    assert store.drops.read("first").classes == ("cat", "dog", "big dog")
    with pytest.raises(DropError, match="line 2: its class has no name"):
        amend(task, store, tmp_path, "key,class\ncat/003,\u200b\n")


def test_amendment_follows_the_newest_if_one_is_missing(task: Task, store: TaskStore, tmp_path: Path) -> None:
    for number in range(3):
        assert amend(task, store, tmp_path, f"key,class\ncat/00{number},dog\n")
    store.objects.delete(store.keys.amendment(2))
    assert amend(task, store, tmp_path, "key,class\ncat/009,dog\n")
    assert [one.sequence for one in store.drops.amendments.read()] == [1, 3, 4]


def test_one_table_may_correct_every_sample(task: Task, store: TaskStore, tmp_path: Path) -> None:
    keys = [key for key, (use, _) in uses(store).items() if use < 3]
    assert amend(task, store, tmp_path, "key,class\n" + "".join(f"{key},bird\n" for key in keys))
    assert len(keys) == 80
    assert {name for _, name in uses(store).values()} == {"bird"}


def test_pack_of_new_labels_names_the_amended_drops(
    store: TaskStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pets.yaml").write_text(f"name: pets\nstore: {store.url}\ndata: {{image_size: 8}}\n")
    folder(tmp_path / "new", "dog/moved.png")
    shutil.copy(tmp_path / "pets" / "cat" / "001.png", tmp_path / "new" / "dog" / "moved.png")
    arguments = ["drop", "pack", str(tmp_path / "new"), "--task", str(tmp_path / "pets.yaml")]
    change = "amendment 1: 1 sample of drop first relabelled"
    assert retrain([*arguments, "--dry-run"], capfd).out.splitlines()[-1] == f"would write {change}"
    assert store.drops.amendments.read() == ()
    ended = "no image is new, so no drop is committed; the next run uses the amendment"
    assert retrain(arguments, capfd).out.splitlines()[-2:] == [change, ended]
    assert change in retrain(["status", "--task", str(tmp_path / "pets.yaml")], capfd).out


def test_amend_command_prints_its_changes(store: TaskStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pets.yaml").write_text(f"name: pets\nstore: {store.url}\n")
    (tmp_path / "table.csv").write_text("key,class\ncat/001,dog\n")
    arguments = ["drop", "amend", str(tmp_path / "table.csv"), "--task", str(tmp_path / "pets.yaml")]
    assert (
        retrain([*arguments, "--author", "ann"], capfd).out == "amendment 1: 1 sample with another class, 0 removed\n"
    )
    assert "nothing to amend" in retrain(arguments, capfd).out
    (tmp_path / "table.csv").write_text("key,class\ncat/002,dgo\n")
    assert "new classes that no drop had: dgo; if one is misspelt" in retrain(arguments, capfd).out
    (tmp_path / "table.csv").unlink()
    assert retrain(arguments, capfd).err.endswith("table.csv: cannot be read: No such file or directory\n")
    assert [one.changes[0].author for one in store.drops.amendments.read()] == ["ann", getuser()]
    assert "cat -> dog" in retrain(["drop", "show", "first", "--task", str(tmp_path / "pets.yaml")], capfd).out
