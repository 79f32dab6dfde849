"""Samples are identified by their content, regardless of name, drop and route of ingestion."""

import hashlib
import os
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image
from support.contents import all_places, content_of, placed
from support.ingest_routes import INGEST_FUNCTIONS, Files, IngestFunction, ingest_packed
from support.pictures import encoded, picture, png
from support.uploads import task_in

from retrain.config.task import Data, Task
from retrain.data.amending import Correction, amend_drops
from retrain.data.content import ImageFacts, examine_image
from retrain.data.dataset import held_out_shares, make_dataset, split_of
from retrain.data.finding import Selection
from retrain.data.manifest_builder import BadSamples, ReadDrop
from retrain.data.packing import pack
from retrain.data.sample_table import SampleRow
from retrain.errors import DropError
from retrain.pipeline.status import read_status
from retrain.records import Reading
from retrain.store.drops import late_files
from retrain.store.task_store import TaskStore, open_task_store

KEYS = [f"cat/{number}" for number in range(20_000)]


@pytest.fixture(params=INGEST_FUNCTIONS)
def ingest_files(request: pytest.FixtureRequest) -> IngestFunction:
    """Return each function that ingests files."""
    return request.param


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return task_in(tmp_path)


@pytest.fixture
def store(task: Task) -> TaskStore:
    return open_task_store(task)


def images(numbers: range, name: str = "cat", folder: str = "") -> Files:
    """Return PNG files of one class."""
    return {f"{folder}{name}/{number}.png": png(number) for number in numbers}


def with_splits(train: range, val: range, test: range) -> Files:
    """Return PNG files in a folder for each split."""
    return images(train, folder="train/") | images(val, folder="val/") | images(test, folder="test/")


def contents(numbers: range) -> set[bytes]:
    return {content_of(png(number)) for number in numbers}


def test_held_out_images_are_never_trained_on_later(ingest_files: IngestFunction, task: Task, store: TaskStore) -> None:
    ingest_files(task, store, "first", with_splits(range(20), range(20, 30), range(30, 40)))
    second = ingest_files(task, store, "second", images(range(60)))
    found = all_places(store)
    assert {content for content, places in found.items() if ("train", "cat") in places}.isdisjoint(
        contents(range(20, 40))
    )
    assert all(len(places) == 1 for places in found.values())
    assert sum(map(second.samples, ("train", "val", "test"))) == 20


def test_trained_images_are_never_held_out_later(ingest_files: IngestFunction, task: Task, store: TaskStore) -> None:
    first = ingest_files(task, store, "first", images(range(60)))
    before = placed(store, first)
    ingest_files(
        task,
        store,
        "second",
        with_splits(range(60, 70), range(10), range(10, 30)) | images(range(70, 75), folder="test/"),
    )
    assert {content: [place] for content, place in before.items()}.items() <= all_places(store).items()


def test_copy_in_train_and_test_of_one_drop_is_held_out(
    ingest_files: IngestFunction, task: Task, store: TaskStore
) -> None:
    files = with_splits(range(20), range(20, 25), range(25, 30)) | {
        f"train/cat/copy {number}.png": png(number) for number in (20, 25)
    }
    found = placed(store, ingest_files(task, store, "first", files))
    assert [found[content] for content in sorted(contents(range(25, 26)))] == [("test", "cat")]
    assert [found[content] for content in sorted(contents(range(20, 21)))] == [("val", "cat")]
    assert len(found) == 30


def test_image_of_test_is_never_drawn_for_val(ingest_files: IngestFunction, task: Task, store: TaskStore) -> None:
    files = images(range(60), folder="train/") | images(range(40), folder="test/")
    drop = ingest_files(task, store, "first", files)
    found = placed(store, drop)
    assert {content for content, (split, _) in found.items() if split == "test"} == contents(range(40))
    assert drop.samples("val") > 0
    assert drop.reading
    assert drop.reading.notes == ("40 images left out: the same picture as another image of this drop",)


def test_images_in_val_and_test_of_a_source_are_counted(
    ingest_files: IngestFunction, task: Task, store: TaskStore
) -> None:
    drop = ingest_files(task, store, "first", with_splits(range(20), range(20, 30), range(23, 33)))
    assert (drop.samples("val"), drop.samples("test")) == (10, 10)
    assert drop.reading
    [note] = drop.reading.notes
    assert note.startswith("7 images in both val and test of the source, so test does not measure new images only: ")


def test_renamed_and_losslessly_saved_copies_count_once(
    ingest_files: IngestFunction, task: Task, store: TaskStore
) -> None:
    again = {
        f"cat/{number} (1).png": encoded(Image.fromarray(picture(number)), compress_level=0) for number in range(40)
    }
    assert len(placed(store, ingest_files(task, store, "first", images(range(40)) | again))) == 40


def test_growing_folder_adds_only_its_new_images(ingest_files: IngestFunction, task: Task, store: TaskStore) -> None:
    ingest_files(task, store, "week-1", images(range(40)))
    second = ingest_files(task, store, "week-2", images(range(44)))
    assert set(placed(store, second)) == contents(range(40, 44))
    assert sum(shard.samples for shard in second.shards) == 4


def test_same_folder_under_another_id_adds_nothing(ingest_files: IngestFunction, task: Task, store: TaskStore) -> None:
    ingest_files(task, store, "first", images(range(40)))
    if ingest_files is ingest_packed:
        assert ingest_files(task, store, "again", images(range(40))).id == "first"
    else:
        with pytest.raises(DropError, match=r"drop again: it has no new image: .* such as first"):
            ingest_files(task, store, "again", images(range(40)))
    assert [drop.id for drop in store.drops.all()] == ["first"]


def with_conflict_rule(task: Task, on_conflict: str) -> Task:
    return task.model_copy(update={"data": task.data.model_copy(update={"on_conflict": on_conflict})})


def test_newest_class_of_an_image_amends_its_drop(ingest_files: IngestFunction, task: Task, store: TaskStore) -> None:
    first = ingest_files(task, store, "first", images(range(40)))
    split, _ = placed(store, first)[min(contents(range(3, 4)))]
    ingest_files(task, store, "second", {"dog/3.png": png(3)} | images(range(40, 50), "dog"))
    assert all_places(store)[min(contents(range(3, 4)))] == [(split, "dog")]
    [amendment] = store.drops.amendments.read()
    assert [(change.drop, change.before, change.after) for change in amendment.changes] == [("first", "cat", "dog")]
    assert list(store.drops.read_versions(make_dataset([first]).drops)) == [first]
    assert store.drops.read("first").digest != first.digest


@pytest.mark.parametrize("on_conflict", ["newest", "refuse", "keep_both"])
def test_growing_folder_does_not_undo_a_correction(
    ingest_files: IngestFunction, task: Task, store: TaskStore, tmp_path: Path, on_conflict: str
) -> None:
    ingest_files(task, store, "week-1", images(range(40)))
    wrong = content_of(png(3))
    amend_drops([Correction(Selection("a test", "", "", wrong.hex()), "dog", "", "ann")], task, store)
    [(split, _)] = all_places(store)[wrong]
    ingest_files(with_conflict_rule(task, on_conflict), store, "week-2", images(range(44)))
    assert all_places(store)[wrong] == [(split, "dog")]
    ingest_files(task, store, "week-3", {"bird/3.png": png(3)} | images(range(50, 60)))
    assert all_places(store)[wrong] == [(split, "bird")]


def test_refused_drop_amends_nothing(ingest_files: IngestFunction, task: Task, store: TaskStore) -> None:
    ingest_files(task, store, "first", with_splits(range(20), range(20, 30), range(30, 40)))
    ingest_files(task, store, "second", images(range(40, 44), folder="train/"))
    store.drops.quarantine("first", "a test")
    with pytest.raises(DropError, match="no test samples among 1"):
        ingest_files(
            task, store, "third", images(range(40, 41), "dog", "train/") | images(range(50, 51), folder="train/")
        )
    assert store.drops.amendments.read() == ()


def test_conflict_is_refused_if_the_task_forbids_it(ingest_files: IngestFunction, task: Task, store: TaskStore) -> None:
    ingest_files(task, store, "first", images(range(40)))
    with pytest.raises(DropError, match=r"two classes: .* \(dog\) is the same image as .* of drop first \(cat\)"):
        ingest_files(
            with_conflict_rule(task, "refuse"), store, "second", {"dog/3.png": png(3)} | images(range(40, 50), "dog")
        )
    assert store.drops.amendments.read() == ()


def test_conflicting_classes_share_one_split_if_kept(
    ingest_files: IngestFunction, task: Task, store: TaskStore
) -> None:
    first = ingest_files(task, store, "first", images(range(40)))
    split, _ = placed(store, first)[min(contents(range(3, 4)))]
    ingest_files(
        with_conflict_rule(task, "keep_both"), store, "second", {"dog/3.png": png(3)} | images(range(40, 50), "dog")
    )
    assert all_places(store)[min(contents(range(3, 4)))] == [(split, "cat"), (split, "dog")]


def test_image_with_two_classes_in_one_drop_is_not_used(
    ingest_files: IngestFunction, task: Task, store: TaskStore
) -> None:
    copies = {"dog/3.png": png(3), "dog/copy of 3.png": png(3), "dog/copy of 40.png": png(40)}
    drop = ingest_files(task, store, "first", images(range(40)) | copies | images(range(40, 60), "dog"))
    assert set(placed(store, drop)) == contents(range(60)) - contents(range(3, 4))
    assert drop.reading is not None
    assert sorted(drop.reading.notes) == [
        "1 image left out: the same picture as another image of this drop",
        "3 images left out: this drop has the same picture with another class",
    ]


def test_note_on_equal_images_names_paths_and_effect(task: Task, store: TaskStore, tmp_path: Path) -> None:
    files = images(range(40)) | {"owl eye/\u00fc.png": png(50), "dog/1.png": png(50), "owl eye/2.png": png(51)}
    for name, data in files.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    notes: list[str] = []
    pack(tmp_path / "source", task, store, tell=notes.append)
    [note] = [note for note in notes if note.startswith("two classes")]
    assert note == "two classes: owl eye/\u00fc (owl eye) and dog/1 (dog) are the same image, and none of them is used"


def test_class_that_differs_only_in_case_is_reported(task: Task, store: TaskStore, tmp_path: Path) -> None:
    notes: list[str] = []
    for first, name in ((0, "cat"), (40, "Cat"), (80, "cat")):
        for number in range(first, first + 40):
            path = tmp_path / f"source-{first}" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(number))
        pack(tmp_path / f"source-{first}", task, store, tell=notes.append)
    [note] = [note for note in notes if "upper and lower" in note]
    assert note.startswith("class Cat differs only in upper and lower case from cat of earlier drops; ")


def test_alias_of_a_class_of_earlier_drops_is_reported(task: Task, store: TaskStore, tmp_path: Path) -> None:
    aliases = task.model_copy(update={"data": task.data.model_copy(update={"aliases": {"cat": "kitten"}})})
    notes: list[str] = []
    for first, chosen in ((0, task), (40, aliases)):
        for number in range(first, first + 40):
            path = tmp_path / f"source-{first}" / "cat" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(number))
        pack(tmp_path / f"source-{first}", chosen, store, tell=notes.append)
    [note] = [note for note in notes if "data.aliases" in note]
    assert note.startswith("earlier drops still have the class cat, because data.aliases renames it to kitten")


def test_single_image_of_a_class_is_trained_on(ingest_files: IngestFunction, task: Task, store: TaskStore) -> None:
    lone = {f"class-{number}/{number}.png": png(number) for number in range(100, 110)}
    found = placed(store, ingest_files(task, store, "first", images(range(60)) | lone))
    assert {found[content][0] for content in contents(range(100, 110))} == {"train"}


def test_class_without_training_images_can_be_refused(
    ingest_files: IngestFunction, task: Task, store: TaskStore
) -> None:
    strict = task.model_copy(update={"data": task.data.model_copy(update={"unseen_classes": "refuse"})})
    with pytest.raises(DropError, match=r"no training image of dgo, and data\.unseen_classes is refuse"):
        ingest_files(
            strict,
            store,
            "first",
            with_splits(range(9), range(9, 12), range(12, 15)) | images(range(20, 22), "dgo", "test/"),
        )


def test_content_digest_ignores_metadata_and_lossless_format() -> None:
    small, large = (Image.fromarray(picture(1, 64)).resize((size, size)) for size in (40, 300))
    same = [
        encoded(small),
        encoded(small, "BMP"),
        encoded(small.convert("RGBA")),
        encoded(small, "WEBP", lossless=True),
    ]
    assert len({examine_image(data, size).content for data in same for size in (8, 64)}) == 1
    jpeg, exif = encoded(large, "JPEG"), Image.Exif()
    exif[0x010E] = "a description"
    segment = b"\xff\xe1" + (len(exif.tobytes()) + 2).to_bytes(2, "big") + exif.tobytes()
    described = jpeg[:2] + segment + jpeg[2:]
    assert examine_image(described, 8).content == examine_image(jpeg, 200).content
    others = [encoded(large, "JPEG", quality=60), encoded(large.rotate(90), "JPEG"), encoded(small, "JPEG")]
    assert len({examine_image(data, 8).content for data in [jpeg, *others]}) == 4


def put_later(store: TaskStore, name: str, data: bytes) -> None:
    """Write a file of the drop `first`, with a time ten seconds after the newest object in the store."""
    key = store.keys.drop_file("first", name)
    newest = max(entry.modified for entry in store.objects.list() if entry.modified).timestamp()
    store.objects.write(key, data)
    os.utime(Path(store.url, key), (newest + 10, newest + 10))


def test_late_files_are_reported(ingest_files: IngestFunction, task: Task, store: TaskStore) -> None:
    first = ingest_files(task, store, "first", images(range(40)))
    assert late_files(first, store.drops.committed()) is None
    put_later(store, "cat/99.png", png(99))
    sentence = (
        "drop first: 1 file was added after the commit (cat/99.png), and no run uses the new content: upload it "
        "as a drop with another id"
    )
    assert late_files(first, store.drops.committed()) == sentence
    assert read_status(task, store).late == (sentence,)


def test_rewritten_success_file_is_reported(ingest_files: IngestFunction, task: Task, store: TaskStore) -> None:
    first = ingest_files(task, store, "first", images(range(40)))
    put_later(store, "_SUCCESS", b"")
    told = late_files(first, store.drops.committed())
    assert told
    assert told.startswith("drop first: its _SUCCESS was written again after the commit, without effect")


def test_copied_store_reports_no_late_files(ingest_files: IngestFunction, task: Task, store: TaskStore) -> None:
    first = ingest_files(task, store, "first", images(range(40)))
    for entry in reversed(list(store.objects.list(store.keys.drops))):
        put_later(store, entry.key.partition("/first/")[2], store.objects.read(entry.key)[0])
    put_later(store, "_SUCCESS", b"")
    first_listed = store.keys.drop_file("first", first.sample_list.name if first.sample_list else "")
    put_later(store, first_listed.partition("/first/")[2], store.objects.read(first_listed)[0])
    assert late_files(first, store.drops.committed()) is None


def test_reading_a_drop_takes_under_310_bytes_per_sample() -> None:
    """The memory of the samples themselves is not counted. `source` is a digest of the sorted samples."""
    facts = [ImageFacts(number.to_bytes(16, "big"), 32, 32, bytes(72), bytes(64)) for number in range(4000)]
    rows = [SampleRow(f"{number:08d}", "cat", "train", 0, each) for number, each in enumerate(facts)]
    tracemalloc.start()
    read = ReadDrop.of("d", rows, [], BadSamples(0), {}, Reading(labels_from="cls", not_samples={}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / len(rows) < 310
    lines = [f"train\0{row.key}\0cat\0{each.content.hex()}\n" for row, each in zip(rows, facts, strict=True)]
    assert read.source == hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def test_only_splits_that_are_missing_are_held_out() -> None:
    data = Data(val_share=0.2, test_share=0.3)
    assert held_out_shares(set(), data) == {"val": 0.2, "test": 0.3}
    assert held_out_shares({"train", "test"}, data) == {"val": 0.2}
    assert held_out_shares({"train", "val", "test"}, data) == {}


def test_holdout_has_the_requested_shares() -> None:
    splits = [split_of(key, "train", {"val": 0.1, "test": 0.25}) for key in KEYS]
    assert splits.count("val") / len(KEYS) == pytest.approx(0.1, abs=0.007)
    assert splits.count("test") / len(KEYS) == pytest.approx(0.25, abs=0.01)


def test_holdout_draws_samples_only_from_train() -> None:
    assert {split_of(key, "val", {"test": 0.4}) for key in KEYS} == {"val"}
    assert {split_of(key, "test", {"val": 0.4}) for key in KEYS} == {"test"}
    assert {split_of(key, "train", {}) for key in KEYS} == {"train"}


def test_split_of_a_key_never_changes() -> None:
    held_out = {key: split_of(key, "train", {"val": 0.1, "test": 0.1}) for key in KEYS[:40]}
    assert {key for key, split in held_out.items() if split == "val"} == {"cat/1", "cat/9", "cat/19", "cat/38"}
    assert {key for key, split in held_out.items() if split == "test"} == {"cat/10", "cat/25"}


def test_test_split_does_not_depend_on_the_val_share() -> None:
    both = {key for key in KEYS if split_of(key, "train", {"val": 0.1, "test": 0.1}) == "test"}
    alone = {key for key in KEYS if split_of(key, "train", {"test": 0.1}) == "test"}
    assert both == alone
