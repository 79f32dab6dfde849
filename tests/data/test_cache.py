"""A drop is decoded once. The cache has the pixels and labels of the drop's source."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from support.pictures import folder, png, two_classes
from support.uploads import good, shard, upload

from retrain.config import SPLITS, Split
from retrain.config.task import Data, Task
from retrain.data.cache import _read_arrays, decode_drop, load_decoded
from retrain.data.content import examine_image
from retrain.data.dataset import make_dataset
from retrain.data.decoded import cache_path
from retrain.data.identity import draw_splits
from retrain.data.images import decode_image
from retrain.data.labels import Sample
from retrain.data.local_cache import cache_folder
from retrain.data.packing import pack
from retrain.data.samples import Samples, load_in_memory
from retrain.data.shards import Encoded, write_shards
from retrain.data.source import read_source
from retrain.data.staging import stable_hash
from retrain.data.uploads import ingest_drop
from retrain.errors import DropError, UserError
from retrain.records import Drop
from retrain.store import LocalStore, ObjectStore
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore

TASK = Task(name="pets", data=Data(image_size=8, val_share=0.2, test_share=0.2))
KEYS = TaskKeys("pets")
CPU = torch.device("cpu")


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def load(drops: list[Drop], store: ObjectStore, cache: Path, *splits: Split) -> dict[Split, Samples]:
    dataset = make_dataset(drops)
    return load_in_memory(
        dataset, drops, splits, store=TaskStore(store, "pets"), image_size=8, device=CPU, pixels_on=CPU, cache_dir=cache
    )


def test_cache_keeps_pixels_and_labels_in_shard_order(tmp_path: Path, store: ObjectStore) -> None:
    source = two_classes(tmp_path / "pets")
    [(drop, *_)] = pack(source, TASK, TaskStore(store, TASK.name))
    arrays = load_decoded(drop, TaskStore(store, "pets"), 8, tmp_path / "cache")
    assert sum(len(labels) for _, labels in arrays.values()) == 80
    for split, (images, labels) in arrays.items():
        held = [one for one in read_source(source) if _split_of(one, drop.held_out) == split]
        samples = sorted(held, key=lambda sample: stable_hash(sample.key, 0))
        expected = torch.stack([torch.from_numpy(decode_image(sample.entry.read(), 8)) for sample in samples])
        assert torch.equal(images, expected)
        assert labels.tolist() == [drop.classes.index(sample.class_name) for sample in samples]


def _split_of(sample: Sample, held_out: dict[Split, float]) -> Split:
    """Return the split to which a sample's content assigns it."""
    content = np.array([examine_image(sample.entry.read(), 8).content])
    return SPLITS[draw_splits(content, held_out)[0]]


def test_second_load_reads_nothing_from_the_store(tmp_path: Path, local: LocalStore) -> None:
    [(drop, *_)] = pack(two_classes(tmp_path / "pets"), TASK, TaskStore(local, TASK.name))
    first = load_decoded(drop, TaskStore(local, "pets"), 8, tmp_path / "cache")
    local.delete(KEYS.drop_file(drop.id, drop.shards[0].name))
    second = load_decoded(drop, TaskStore(local, "pets"), 8, tmp_path / "cache")
    assert all(torch.equal(first[split].images, second[split].images) for split in first)
    names = {path.name for path in (tmp_path / "cache").iterdir()}
    assert names == {f"{drop.digest}-8-{split}.safetensors" for split in SPLITS}


def test_only_the_requested_split_is_decoded(tmp_path: Path, local: LocalStore) -> None:
    [(drop, *_)] = pack(two_classes(tmp_path / "pets"), TASK, TaskStore(local, TASK.name))
    everything = load_decoded(drop, TaskStore(local, "pets"), 8, tmp_path / "all")
    alone = load_decoded(drop, TaskStore(local, "pets"), 8, tmp_path / "cache", ["test"])
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{drop.digest}-8-test.safetensors"]
    assert alone.keys() == {"test"}
    assert torch.equal(alone["test"].images, everything["test"].images)
    assert torch.equal(alone["test"].labels, everything["test"].labels)


def test_each_image_size_is_cached_separately(tmp_path: Path, local: LocalStore) -> None:
    [(drop, *_)] = pack(two_classes(tmp_path / "pets"), TASK, TaskStore(local, TASK.name))
    assert load_decoded(drop, TaskStore(local, "pets"), 8, tmp_path / "cache")["train"].images.shape[1:] == (3, 8, 8)
    assert load_decoded(drop, TaskStore(local, "pets"), 4, tmp_path / "cache")["train"].images.shape[1:] == (3, 4, 4)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:5],
        lambda data: data[:-1],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data.replace(b"sha256", b"sha255"),
        lambda data: data.replace(b'"__metadata__"', b'"__metabase__"'),
    ],
)
def test_damaged_cache_is_decoded_again(tmp_path: Path, local: LocalStore, spoil: Callable[[bytes], bytes]) -> None:
    [(drop, *_)] = pack(two_classes(tmp_path / "pets"), TASK, TaskStore(local, TASK.name))
    load_decoded(drop, TaskStore(local, "pets"), 8, tmp_path / "cache")
    path = cache_path(drop, 8, tmp_path / "cache", "train")
    whole = path.read_bytes()
    path.write_bytes(spoil(whole))
    load_decoded(drop, TaskStore(local, "pets"), 8, tmp_path / "cache")
    assert path.read_bytes() == whole


def test_cache_is_verified_once_per_process_until_it_changes(tmp_path: Path, local: LocalStore) -> None:
    [(drop, *_)] = pack(two_classes(tmp_path / "pets"), TASK, TaskStore(local, TASK.name))
    for _ in range(2):
        load_decoded(drop, TaskStore(local, "pets"), 8, tmp_path / "cache")
    path = cache_path(drop, 8, tmp_path / "cache", "train")
    whole, written = path.read_bytes(), path.stat().st_mtime_ns
    harmed = whole[:-1] + bytes([whole[-1] ^ 1])
    path.write_bytes(harmed)
    os.utime(path, ns=(written, written))
    load_decoded(drop, TaskStore(local, "pets"), 8, tmp_path / "cache")
    assert path.read_bytes() == harmed  # it was not verified
    os.utime(path, ns=(written, written + 1))
    load_decoded(drop, TaskStore(local, "pets"), 8, tmp_path / "cache")
    assert path.read_bytes() == whole
    path.unlink()
    load_decoded(drop, TaskStore(local, "pets"), 8, tmp_path / "cache")
    assert path.read_bytes() == whole


def test_error_on_an_unwritable_cache_names_its_path(tmp_path: Path, local: LocalStore) -> None:
    [(drop, *_)] = pack(two_classes(tmp_path / "pets"), TASK, TaskStore(local, TASK.name))
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"cannot be written: .* Set \$RETRAIN_CACHE to another folder"):
        load_decoded(drop, TaskStore(local, "pets"), 8, tmp_path / "cache")


def test_truncated_shard_leaves_no_cache(tmp_path: Path, local: LocalStore) -> None:
    [(drop, *_)] = pack(two_classes(tmp_path / "pets"), TASK, TaskStore(local, TASK.name))
    key = KEYS.drop_file(drop.id, drop.shards[0].name)
    local.write(key, local.read(key)[0][:-10240])
    with pytest.raises(DropError, match=key):
        load_decoded(drop, TaskStore(local, "pets"), 8, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("counts", [{"cat": 5, "dog": 500}, {"cat": 5, "dog": 6}])
def test_manifest_with_wrong_counts_is_refused(tmp_path: Path, local: LocalStore, counts: dict[str, int]) -> None:
    [(drop, *_)] = pack(two_classes(tmp_path / "pets"), TASK, TaskStore(local, TASK.name))
    wrong = drop.model_copy(update={"counts": {**drop.counts, "train": counts}})
    with pytest.raises(DropError, match=f"drop {drop.id}: .*manifest"):
        load_decoded(wrong, TaskStore(local, "pets"), 8, tmp_path / "cache")


def test_labels_in_memory_are_numbered_as_in_the_dataset(tmp_path: Path, local: LocalStore) -> None:
    [(first, *_)] = pack(two_classes(tmp_path / "first"), TASK, TaskStore(local, TASK.name), drop_id="first")
    names = [f"{name}/{number:03d}.png" for name in ("ant", "dog") for number in range(30)]
    [(second, *_)] = pack(
        folder(tmp_path / "second", *names, first=1000), TASK, TaskStore(local, TASK.name), drop_id="second"
    )
    samples = load([first, second], local, tmp_path / "cache", "train", "val")
    assert set(samples) == {"train", "val"}
    train = samples["train"]
    assert train.sizes == (first.samples("train"), second.samples("train"))
    assert train.drop.tolist() == [0] * train.sizes[0] + [1] * train.sizes[1]
    arrays = load_decoded(second, TaskStore(local, "pets"), 8, tmp_path / "cache")["train"]
    assert torch.equal(train.images[train.sizes[0] :], arrays.images)
    in_dataset = {0: 2, 1: 1}  # classes of the dataset: cat, dog, ant; classes of the second drop: ant, dog
    assert train.labels[train.sizes[0] :].tolist() == [in_dataset[label] for label in arrays.labels.tolist()]


def test_dataset_refuses_drops_of_another_dataset(tmp_path: Path, local: LocalStore) -> None:
    [(first, *_)] = pack(two_classes(tmp_path / "first"), TASK, TaskStore(local, TASK.name))
    [(second, *_)] = pack(two_classes(tmp_path / "second", each=41), TASK, TaskStore(local, TASK.name))
    with pytest.raises(DropError, match="has changed since the run was planned"):
        load_in_memory(
            make_dataset([first]),
            [second],
            ["train"],
            store=TaskStore(local, "pets"),
            image_size=8,
            device=CPU,
            pixels_on=CPU,
            cache_dir=tmp_path / "cache",
        )


def test_error_on_an_undecodable_image_names_shard_and_key(tmp_path: Path, local: LocalStore) -> None:
    samples = [Encoded("cat/1", "cat", "png", png(1)), Encoded("cat/2", "cat", "png", png(2)[:-60])]
    [(drop, *_)] = pack(two_classes(tmp_path / "pets"), TASK, TaskStore(local, TASK.name))
    [shard] = write_shards(samples, "train", tmp_path)
    local.upload(tmp_path / shard.name, KEYS.drop_file(drop.id, shard.name))
    counts = {"train": {"cat": 2}, "val": {}, "test": {}}
    bad = drop.model_copy(update={"shards": (shard,), "counts": counts, "held_out": {}, "sample_list": None})
    with pytest.raises(DropError, match=rf"{shard.name}: cat/2: cannot be decoded"):
        load_decoded(bad, TaskStore(local, "pets"), 8, tmp_path / "cache")


def upload_layout(store: ObjectStore, layout: str) -> None:
    """Upload a drop with a bad image and a duplicate, either as shards or as images."""
    members = [*good(40), ("bad.png", b"no image"), ("bad.cls", b"cat"), ("twin.png", png(3)), ("twin.cls", b"dog")]
    if layout == "shards":
        upload(store, "first", {"train-000000.tar": shard(members[:50]), "train-000001.tar": shard(members[50:])})
        return
    classes = {Path(str(name)).stem: data.decode() for name, data in members if str(name).endswith(".cls")}
    images = {f"{classes[Path(str(name)).stem]}/{name}": data for name, data in members if str(name).endswith(".png")}
    upload(store, "first", images)


@pytest.mark.parametrize("layout", ["shards", "images"])
def test_validation_caches_the_pixels_that_a_run_needs(tmp_path: Path, local: LocalStore, layout: str) -> None:
    upload_layout(local, layout)
    store, cache = TaskStore(local, "pets"), tmp_path / "cache"
    task = TASK.model_copy(update={"data": TASK.data.model_copy(update={"max_bad_share": 0.1})})
    drop = ingest_drop("first", task, store, cache_dir=cache)
    assert drop.left_out
    decoded = decode_drop(drop, store, 8)
    for split in SPLITS:
        kept = _read_arrays(cache_path(drop, 8, cache, split))
        assert len(kept.labels) == drop.samples(split) > 0
        assert torch.equal(kept.images, decoded[split].images)
        assert torch.equal(kept.labels, decoded[split].labels)
    assert len(list(cache.iterdir())) == len(SPLITS)


@pytest.mark.parametrize(
    "settings", [{"data": {"image_size": 8, "loader": "stream"}}, {"resources": {"memory": "1Ki"}}]
)
def test_validation_caches_no_pixels_of_streamed_data(
    tmp_path: Path, local: LocalStore, settings: dict[str, object]
) -> None:
    upload(local, "first", {"train-000000.tar": shard(good(40))})
    task = Task.model_validate({"name": "pets", "data": {"image_size": 8}} | settings)
    assert ingest_drop("first", task, TaskStore(local, "pets"), cache_dir=tmp_path / "cache").samples("train")
    assert list((tmp_path / "cache").iterdir()) == []


def test_validation_works_without_a_writable_cache(tmp_path: Path, local: LocalStore) -> None:
    upload(local, "first", {"train-000000.tar": shard(good(40))})
    (tmp_path / "file").touch()
    assert ingest_drop("first", TASK, TaskStore(local, "pets"), cache_dir=tmp_path / "file" / "cache").samples("train")


def test_validation_works_on_a_full_disk(tmp_path: Path, local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses every write to /dev/full."""

    def open_full(*, dir: Path, buffering: int = -1) -> BinaryIO:
        return Path("/dev/full").open("r+b", buffering)

    monkeypatch.setattr(tempfile, "TemporaryFile", open_full)
    upload(local, "first", {"train-000000.tar": shard(good(40))})
    assert ingest_drop("first", TASK, TaskStore(local, "pets"), cache_dir=tmp_path / "cache").samples("train")
    assert list((tmp_path / "cache").iterdir()) == []


def test_cache_without_a_home_directory_names_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("RETRAIN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(UserError, match=r"set \$RETRAIN_CACHE"):
        cache_folder()
    monkeypatch.setenv("RETRAIN_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
