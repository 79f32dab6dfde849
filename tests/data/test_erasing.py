"""An erasure removes samples from all files of the store, for every route of ingestion and after an interruption."""

import json
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import pytest
from support.ingest_routes import DROP, IngestRoute, open_route, tree, zipped
from support.pictures import png
from support.terminal import retrain
from support.uploads import good, shard

from retrain.config import SPLITS
from retrain.config.task import Task
from retrain.data.amending import amend_drops, read_corrections
from retrain.data.cache import decode_drop
from retrain.data.erasing import Selection, clear_cache, select_image
from retrain.data.packing import pack
from retrain.data.table_making import read_or_make_table
from retrain.data.uploads import ingest_drop
from retrain.errors import DropError
from retrain.pipeline.erasure import erase
from retrain.records import Drop
from retrain.records.drop import drop_digest
from retrain.store import LocalStore
from retrain.store.drops import late_files
from retrain.store.task_store import TaskStore

VICTIM = png(7000)
NAME = "jane-doe"
TREE = {**tree("cat", "dog"), f"cat/{NAME}.png": VICTIM}
LAYOUTS = {
    "tree": {**TREE, f"cat/{NAME}.json": b"{}", "cat/Thumbs.db": VICTIM},
    "copies": {**TREE, "cat/other.png": VICTIM, "dog/x.png": png(9000)},
    "zip": {"week.zip": zipped(TREE)},
    "shards": {
        "train-0.tar": shard([*good(40), (f"{NAME}.png", VICTIM), (f"{NAME}.cls", b"cat"), (f"{NAME}.json", b"{}")])
    },
    "copied": {"train-000000-0123abcd.tar": shard([*good(40), (f"{NAME}.png", VICTIM), (f"{NAME}.cls", b"cat")])},
    "table": {
        **{f"{number}.png": png(number) for number in range(40)},
        f"{NAME}.png": VICTIM,
        "metadata.csv": "\n".join(
            [
                "file_name,label",
                *(f"{number}.png,{('cat', 'dog')[number % 2]}" for number in range(40)),
                f"{NAME}.png,cat",
            ]
        ).encode(),
    },
}
TASK = Task.model_validate({"name": "pets", "data": {"image_size": 8, "val_share": 0.3, "test_share": 0.3}})


def traces(folder: Path) -> set[str]:
    """Return the files below a folder, including hidden files, that contain the victim's image or name."""
    marks = VICTIM, VICTIM[60:100], NAME.encode()
    paths = [path for path in folder.rglob("*") if path.is_file()]
    found = {str(path) for path in paths if any(mark in path.read_bytes() for mark in marks)}
    return found | {str(path) for path in paths if NAME in path.name}


def ingest_layout(route: str, layout: str, tmp_path: Path) -> tuple[IngestRoute, Drop]:
    where = open_route(route, tmp_path)
    return where, where.ingest(LAYOUTS[layout], max_bad_share=0.5, label_from="folder" if layout == "tree" else "auto")


def select_victim(tmp_path: Path) -> Selection:
    path = tmp_path / "victim.png"
    path.write_bytes(VICTIM)
    return select_image(path, TASK.data.frame)


def forget(store: TaskStore, tmp_path: Path, *selections: Selection) -> int:
    """Erase samples, and return their number."""
    done = erase(selections, TASK, store, tmp_path / "cache", "ann", "asked to")
    assert done.unread == ()
    return sum(len(one.samples) for one in done.erasures)


def total(drop: Drop) -> int:
    return sum(map(drop.samples, SPLITS))


@pytest.mark.parametrize(
    ("route", "layout"),
    [("pack", name) for name in ("tree", "copies", "zip", "table")] + [("upload", name) for name in LAYOUTS],
)
def test_erased_sample_leaves_no_trace_in_the_store(route: str, layout: str, tmp_path: Path) -> None:
    where, drop = ingest_layout(route, layout, tmp_path)
    store, root = where.store, tmp_path / "store"
    before = {key for _, key, _ in where.samples(drop)}
    assert traces(root)
    forget(store, tmp_path, select_victim(tmp_path))
    now = store.drops.read(drop.id)
    assert traces(root) == set()
    assert total(now) == total(drop) - 1
    assert {key for _, key, _ in where.samples(now)} == {
        key for key in before if NAME not in key and key != "cat/other"
    }
    decoded = decode_drop(now, store, 8)
    assert sum(len(decoded[split].labels) for split in SPLITS) == total(now)
    assert late_files(now, store.drops.committed()) is None
    assert forget(store, tmp_path, select_victim(tmp_path)) == 0
    [erasure] = store.erasures.read()
    assert erasure.completed_at
    assert erasure.author == "ann"


def test_erased_sample_is_removed_from_s3(tmp_path: Path, bucket: str, s3: str) -> None:
    where = open_route("s3", tmp_path, bucket, s3)
    where.ingest(LAYOUTS["tree"], label_from="folder")
    forget(where.store, tmp_path, select_victim(tmp_path))
    for entry in where.store.objects.list():
        data, _ = where.store.objects.read(entry.key)
        assert VICTIM not in data
        assert NAME.encode() not in data + entry.key.encode()


class Killed(BaseException):
    """The simulated end of the process after a write."""


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list with one number: the write with this number raises `Killed`.

    Writes are counted from the time at which a test sets the number. With a negative number, no write raises. Writes of
    leases are not counted.
    """
    left = [-1]

    def limited(name: str) -> None:
        method = getattr(LocalStore, name)

        def write(store: LocalStore, *arguments: object) -> object:
            result = method(store, *arguments)
            if not str(arguments[0]).endswith("lease.json"):
                left[0] -= 1
                if left[0] == 0:
                    raise Killed
            return result

        monkeypatch.setattr(LocalStore, name, write)

    for name in ("create", "replace", "write", "delete", "upload"):
        limited(name)
    return left


@pytest.mark.parametrize("layout", ["tree", "shards"])
def test_interrupted_erasure_is_completed(layout: str, tmp_path: Path, writes: list[int]) -> None:
    for number in range(1, 30):
        folder = tmp_path / str(number)
        folder.mkdir()
        where, drop = ingest_layout("upload", layout, folder)
        writes[0] = number
        try:
            forget(where.store, folder, select_victim(folder))
        except Killed:
            writes[0] = -1
            store = TaskStore(where.store.objects, "pets")
            forget(store, folder)
        else:
            break
        now = store.drops.read(drop.id)
        assert traces(folder / "store") == set(), number
        assert total(now) == total(drop) - 1
        assert len(decode_drop(now, store, 8)["train"].labels) == now.samples("train")
        assert [bool(one.completed_at) for one in store.erasures.read()] == [True]
    assert 8 < number < 29


def test_erased_sample_is_not_used_again(tmp_path: Path) -> None:
    where, drop = ingest_layout("pack", "zip", tmp_path)
    forget(where.store, tmp_path, Selection("--key", "", f"cat/{NAME}", ""))
    assert where.source
    (tmp_path / "more/cat").mkdir(parents=True)
    (tmp_path / "more/cat/new.png").write_bytes(png(8000))
    (tmp_path / f"more/cat/{NAME}.png").write_bytes(VICTIM)
    told: list[str] = []
    packed = pack(tmp_path / "more", TASK, where.store, drop_id="week-46", tell=told.append)[0]
    assert total(packed.drop) == 1
    note = "1 image left out: an erasure or an amendment has removed the same picture from an earlier drop"
    assert told == [note]
    assert packed.drop.reading
    assert packed.drop.reading.notes == (note,)
    (tmp_path / "more/cat/new.png").unlink()
    with pytest.raises(DropError, match=f"no sample in it can be used; {note}"):
        pack(tmp_path / "more", TASK, where.store, drop_id="week-47")
    assert forget(where.store, tmp_path, select_victim(tmp_path)) == 1
    assert traces(tmp_path / "store") == set()
    with pytest.raises(DropError, match=f"--key: cat/{NAME} matches no sample of any drop"):
        forget(where.store, tmp_path, Selection("--key", "", f"cat/{NAME}", ""))
    (tmp_path / "back.csv").write_text(f"content,class\n{select_victim(tmp_path).content},dog\n")
    with pytest.raises(DropError, match="matches no sample of any drop"):
        amend_drops(read_corrections(tmp_path / "back.csv"), TASK, where.store)
    now = where.store.drops.find_manifest(drop.id)
    assert now
    assert now.digest == drop.digest


def test_amended_samples_are_erased_by_drop_and_key(tmp_path: Path) -> None:
    where, drop = ingest_layout("upload", "shards", tmp_path)
    (tmp_path / "table.csv").write_text(f"key,class,remove\n{NAME},dog,\n000001,,yes\n000002,dog,\n")
    amend_drops(read_corrections(tmp_path / "table.csv"), TASK, where.store)
    listed = [Selection("list", DROP, NAME, ""), Selection("list", DROP, "000001", "")]
    assert forget(where.store, tmp_path, *listed) == 2
    assert forget(where.store, tmp_path, Selection("list", DROP, "000003", "")) == 1
    now = where.store.drops.read(drop.id)
    assert total(now) == total(drop) - 3
    assert {change.key for change in now.changes if change.after} == {"000002"}
    assert NAME not in json.dumps([one.model_dump(mode="json") for one in where.store.drops.amendments.read()])
    assert sum(len(part.labels) for part in decode_drop(now, where.store, 8).values()) == total(now)


def test_image_that_no_drop_has_is_refused_with_a_remedy(tmp_path: Path) -> None:
    where, _ = ingest_layout("upload", "shards", tmp_path)
    (tmp_path / "other.png").write_bytes(png(9999))
    with pytest.raises(DropError, match=r"other\.png: no sample of any drop has the content of this .* with --key"):
        forget(where.store, tmp_path, select_image(tmp_path / "other.png", TASK.data.frame))


def test_erasure_searches_quarantined_uploads(tmp_path: Path) -> None:
    where, _ = ingest_layout("pack", "tree", tmp_path)
    for name, data in {"cat/a.png": png(1), "cat/b.png": VICTIM, "stray.bin": b"?"}.items():
        where.store.objects.write(where.store.keys.drop_file("bad", name), data)
    where.store.drops.quarantine("bad", "stray.bin: not an image")
    forget(where.store, tmp_path, select_victim(tmp_path))
    assert traces(tmp_path / "store") == set()
    assert {entry.key.rpartition("bad/")[2] for entry in where.store.objects.list("pets/drops/bad/")} == {
        "cat/a.png",
        "stray.bin",
        "quarantine.json",
    }


def test_names_with_spaces_are_erased_from_reports(tmp_path: Path) -> None:
    """Erase a sample by its path. Reports contain its key, and its names in two drops."""
    name = "Jane Doe \u00fc"
    where = open_route("upload", tmp_path)
    where.ingest({**tree("cat", "dog"), f"cat/{name}.png": VICTIM, f"cat/{name}.json": b"{}"}, label_from="folder")
    store = where.store
    store.objects.write(store.keys.drop_file("bad", f"dog/{name} 2.png"), VICTIM)
    strict = TASK.model_copy(update={"data": TASK.data.model_copy(update={"on_conflict": "refuse"})})
    with pytest.raises(DropError, match="with two classes") as refused:
        ingest_drop("bad", strict, store)
    store.drops.quarantine("bad", str(refused.value))
    store.drops.quarantine(DROP, f"cat/{quote(name)}: cannot be decoded, as 1 image with 12 pixels")
    assert forget(store, tmp_path, Selection("", "", f"cat/{name}.png", "")) == 1
    left = {path for path in (tmp_path / "store").rglob("*") if path.is_file()}
    holds = [path for path in left for mark in (VICTIM, b"Jane", b"%C3%BC") if mark in path.read_bytes()]
    assert holds == [path for path in left if "Jane" in path.name] == []
    reports = {drop: report.cause for drop, report in store.drops.quarantine_reports().items() if report}
    assert reports[DROP] == "(erased): cannot be decoded, as 1 image with 12 pixels"
    assert "1 image with two classes: (erased) (dog) is the same image as (erased) (cat)" in reports["bad"]


def without_list(store: TaskStore, drop: Drop) -> Drop:
    """Write a drop's manifest in the old format, without a sample list. The drop's source must have split folders."""
    old = drop.model_copy(update={"sample_list": None, "source": None})
    old = old.model_copy(update={"digest": drop_digest(old)})
    store.objects.write(store.keys.manifest(drop.id), old.to_bytes())
    assert drop.sample_list
    store.objects.delete(store.keys.drop_file(drop.id, drop.sample_list.name))
    return old


def test_drop_without_a_sample_list_is_amended_and_erased(tmp_path: Path) -> None:
    where = open_route("pack", tmp_path)
    files = {f"{split}/{name}": data for split in SPLITS for name, data in tree("cat", "dog", each=4).items()}
    files = {name: png(number) for number, name in enumerate(files)} | {f"train/cat/{NAME}.png": VICTIM}
    drop = without_list(where.store, where.ingest(files))
    (tmp_path / "table.csv").write_text(f"key,remove\ncat/{NAME},yes\n")
    amend_drops(read_corrections(tmp_path / "table.csv"), TASK, where.store)
    assert len(decode_drop(where.store.drops.read(drop.id), where.store, 8)["train"].labels) == 8
    assert forget(where.store, tmp_path, select_victim(tmp_path)) == 1
    assert traces(tmp_path / "store") == set()
    decoded = decode_drop(where.store.drops.read(drop.id), where.store, 8)
    assert [len(decoded[split].labels) for split in SPLITS] == [8, 8, 8]


@pytest.mark.parametrize("manifest", [None, b"damaged"])
def test_cache_is_cleared_without_the_manifest_of_a_drop(tmp_path: Path, manifest: bytes | None) -> None:
    where, drop = ingest_layout("pack", "tree", tmp_path)
    assert forget(where.store, tmp_path, select_victim(tmp_path)) == 1
    key = where.store.keys.manifest(drop.id)
    where.store.objects.write(key, manifest) if manifest else where.store.objects.delete(key)
    clear_cache(tmp_path / "cache", where.store)


def test_erasure_follows_the_newest_if_one_is_missing(tmp_path: Path) -> None:
    where, _ = ingest_layout("pack", "tree", tmp_path)
    keys = sorted(read_or_make_table(where.store.drops.all()[0], where.store).keys)[:3]
    for key in keys[:2]:
        assert forget(where.store, tmp_path, Selection("--key", "", key, "")) == 1
    where.store.objects.delete(where.store.keys.erasure(1))
    assert forget(where.store, tmp_path, Selection("--key", "", keys[2], "")) == 1
    assert [one.sequence for one in where.store.erasures.read()] == [2, 3]


def test_clearing_the_cache_reads_each_record_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, _ = ingest_layout("pack", "tree", tmp_path)
    for number in range(2):
        (tmp_path / f"more-{number}/cat").mkdir(parents=True)
        (tmp_path / f"more-{number}/cat/x.png").write_bytes(png(8000 + number))
        (tmp_path / f"more-{number}/cat/y.png").write_bytes(png(9000 + number))
        pack(tmp_path / f"more-{number}", TASK, where.store, drop_id=f"more-{number}")
        assert forget(where.store, tmp_path, Selection("--key", f"more-{number}", "cat/x", "")) == 1
    read, reads = LocalStore.read, Counter[str]()

    def counted(objects: LocalStore, key: str) -> tuple[bytes, str]:
        reads[key] += 1
        return read(objects, key)

    monkeypatch.setattr(LocalStore, "read", counted)
    clear_cache(tmp_path / "cache", TaskStore(where.store.objects, TASK.name))
    assert len(reads) == 6, "two erasures, two amendments and two manifests"
    assert set(reads.values()) == {1}


def test_erasing_an_ambiguous_key_names_its_drops(tmp_path: Path) -> None:
    where, drop = ingest_layout("pack", "tree", tmp_path)
    (tmp_path / "more/cat").mkdir(parents=True)
    (tmp_path / f"more/cat/{NAME}.png").write_bytes(png(8000))
    pack(tmp_path / "more", TASK, where.store, drop_id="week-46")
    with pytest.raises(DropError, match=rf"--key: 2 samples have the key .* \({drop.id}, week-46\): give its drop"):
        forget(where.store, tmp_path, Selection("--key", "", f"cat/{NAME}", ""))


def test_erase_command_reports_its_erasure(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    where, _ = ingest_layout("pack", "tree", tmp_path)
    (tmp_path / "pets.yaml").write_text(f"name: pets\nstore: {where.store.url}\ndata: {{image_size: 8}}\n")
    (tmp_path / "who.csv").write_text(f"key\ncat/{NAME}\n")
    on = ["drop", "erase", "--task", str(tmp_path / "pets.yaml")]
    chosen = [*on, "--list", str(tmp_path / "who.csv"), "--author", "ann"]
    told = retrain([*chosen, "--dry-run"], capfd).out
    assert "none used these samples" in told
    assert told.endswith("dry run: nothing was erased\n")
    assert where.store.erasures.read() == ()
    assert "erasure 1: 1 sample erased" in retrain(chosen, capfd).out
    assert retrain(on, capfd).out == "nothing to erase\n"


def test_erase_command_refuses_a_drop_without_a_key(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    where, drop = ingest_layout("pack", "tree", tmp_path)
    (tmp_path / "pets.yaml").write_text(f"name: pets\nstore: {where.store.url}\ndata: {{image_size: 8}}\n")
    ran = retrain(["drop", "erase", "--task", str(tmp_path / "pets.yaml"), "--drop", drop.id], capfd)
    assert (ran.code, ran.out) == (2, "")
    assert f"--drop {drop.id} needs --key: it selects the drop" in ran.err
    assert "To erase all samples of a drop, list them in a table and pass it with --list" in ran.err
