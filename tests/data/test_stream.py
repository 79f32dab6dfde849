"""Streamed data give the same samples in every epoch as data in memory, with any number of workers and when resumed.

A stream stores a catalogue in its cache: the positions of the samples in the shards, and the held-out pixels.
"""

from contextlib import closing
from fcntl import LOCK_EX, flock
from functools import partial
from pathlib import Path

import pytest
import torch
from support.streams import KEYS, SETTING, encoded, streaming, two_drops, upload
from support.trainings import CPU, SIZE
from torch import Tensor

from retrain.config import Split
from retrain.config.resources import Resources
from retrain.config.task import Data, Stream, Task
from retrain.data import samples
from retrain.data.augment import Rows
from retrain.data.dataset import choose_loading, make_dataset
from retrain.data.samples import Samples
from retrain.data.stream.order import shard_of, window_shuffle
from retrain.errors import DropError, TaskError
from retrain.records import Dataset, Drop, DropRef
from retrain.store import LocalStore, ObjectStore
from retrain.store.task_store import TaskStore
from retrain.training.loaders import Batch, EpochSampler, InMemoryLoader, Position
from retrain.training.streaming import StreamingLoader

BATCH = 16
Splits = dict[Split, Samples]
ROOMY = SETTING.model_copy(update={"cache": "2Mi"})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder whose store contains two drops of many small shards."""
    folder = tmp_path_factory.mktemp("stream")
    two_drops(LocalStore(folder / "store"), folder)
    return folder


@pytest.fixture
def streams(place: Path) -> Splits:
    return streaming(LocalStore(place / "store"), place / "cache", ROOMY)


def in_memory(place: Path, *splits: Split) -> Splits:
    store = LocalStore(place / "store")
    drops = TaskStore(store, KEYS.task).drops.all()
    where = {"store": TaskStore(store, KEYS.task), "image_size": SIZE, "device": CPU, "pixels_on": CPU}
    return samples.load_in_memory(make_dataset(drops), drops, splits, cache_dir=place / "cache", **where)


def thinned(size: int) -> Tensor:
    """Return each sample's probability in an epoch: 0.1 for every third sample, and 1 for all others."""
    return torch.where(torch.arange(size) % 3 == 0, 0.1, 1.0)


def loader(
    train: Samples, keep: Tensor | None = None, workers: int = 0, rows: Rows | None = None, window: int = 3
) -> StreamingLoader:
    arrange = partial(window_shuffle, counts=train.images.counts, window=window)
    passes = EpochSampler(keep, len(train), BATCH, 7, CPU, arrange)
    return StreamingLoader(passes, train, train.images, rows or Rows(0, BATCH, BATCH), workers)


def take(loader: StreamingLoader | InMemoryLoader, batches: int) -> list[Batch]:
    with closing(loader):
        return [loader.next() for _ in range(batches)]


def same(first: list[Batch], second: list[Batch]) -> bool:
    return all(
        torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("thin", [False, True])
def test_epoch_has_the_same_samples_streamed_or_in_memory(place: Path, streams: Splits, thin: bool) -> None:
    size = len(streams["train"])
    keep = thinned(size) if thin else None
    memory_loader = InMemoryLoader(
        EpochSampler(keep, size, BATCH, 7, CPU), in_memory(place, "train")["train"], Rows(0, BATCH, BATCH)
    )
    epochs = [by_epoch(loader(streams["train"], keep)), by_epoch(memory_loader)]
    for number in range(3):
        streamed, gathered = ([sample for sample, _ in one[number]] for one in epochs)
        assert sorted(streamed) == sorted(gathered)
        assert streamed != gathered
        assert len(streamed) == size if keep is None else 0.5 * size < len(streamed) < 0.9 * size


def by_epoch(loader: StreamingLoader | InMemoryLoader) -> list[list[tuple[int, int]]]:
    """Return the samples of the first epochs, with their labels."""
    passes: list[list[tuple[int, int]]] = [[]]
    while len(passes) < 5:
        before = loader.position
        batch = loader.next()
        pairs = list(zip(batch.samples.tolist(), batch.labels.tolist(), strict=True))
        if loader.position.epoch > before.epoch:
            begun = len(pairs) - loader.position.offset
            passes[-1] += pairs[:begun]
            passes.append([])
            pairs = pairs[begun:]
        passes[-1] += pairs
    loader.close()
    return passes


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_streamed_pixels_and_labels_match_data_in_memory(place: Path, streams: Splits, split: Split) -> None:
    streamed, expected = streams[split], in_memory(place, split)[split]
    rows = torch.randperm(len(expected), generator=torch.Generator().manual_seed(0))
    assert torch.equal(streamed.pixels(rows), expected.pixels(rows))
    assert torch.equal(streamed.labels, expected.labels)
    assert torch.equal(streamed.drop, expected.drop)
    assert streamed.sizes == expected.sizes


def test_batches_have_the_pixels_and_labels_of_their_samples(place: Path, streams: Splits) -> None:
    train = in_memory(place, "train")["train"]
    for batch in take(loader(streams["train"]), 30):
        assert torch.equal(batch.images, train.pixels(batch.samples))
        assert torch.equal(batch.labels, train.labels[batch.samples])


def test_number_of_workers_does_not_change_the_batches(streams: Splits) -> None:
    alone, *others = (
        take(loader(streams["train"], thinned(len(streams["train"])), workers), 30) for workers in (0, 1, 2)
    )
    assert all(same(alone, other) for other in others)


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_resumes_at_any_position(streams: Splits, workers: int) -> None:
    whole = loader(streams["train"])
    positions, batches = [], []
    for _ in range(40):
        positions.append(whole.position)
        batches.append(whole.next())
    whole.close()
    again = loader(streams["train"], workers=workers)
    for number in (25, 3, 38):
        again.seek(Position(*positions[number]))
        assert same([again.next(), again.next()], batches[number : number + 2])
    again.close()


def test_processes_have_exact_shares_of_every_batch(streams: Splits) -> None:
    whole = take(loader(streams["train"]), 20)
    cuts = (0, 5, 10, BATCH)
    shares = [take(loader(streams["train"], rows=Rows(cuts[rank], cuts[rank + 1], BATCH)), 20) for rank in range(3)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert all(torch.equal(part.samples, batch.samples) for part in parts)
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)


def test_stream_opens_and_mixes_one_window_of_shards() -> None:
    counts, window = torch.randint(1, 50, (200,), generator=torch.Generator().manual_seed(0)), 8
    order = window_shuffle(torch.arange(int(counts.sum())), torch.Generator().manual_seed(1), counts, window)
    assert torch.equal(order.sort().values, torch.arange(int(counts.sum())))
    shard = shard_of(order, counts)
    first = {number: place for place, number in reversed(list(enumerate(shard.tolist())))}
    last = {number: place for place, number in enumerate(shard.tolist())}
    most = max(sum(first[s] <= place <= last[s] for s in first) for place in range(0, len(order), 50))
    assert window * 0.6 < most <= window + 1
    changes = (shard[1:] != shard[:-1]).double().mean()
    assert changes > 0.75


def test_samples_left_out_of_an_epoch_are_not_decoded(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    drop = upload(store, tmp_path / "d-1", "d-1", encoded(100))
    train = streaming(store, tmp_path / "cache", ROOMY)["train"]
    bad = 3
    spoil(train, bad)
    keep = (torch.arange(len(train)) != bad).float()
    assert bad not in torch.cat([batch.samples for batch in take(loader(train, keep), 20)])
    with pytest.raises(DropError, match=rf"{drop.shards[0].name}: class-\d/\d+: cannot be decoded"):
        take(loader(train, workers=1), 20)


def spoil(train: Samples, row: int) -> None:
    """Overwrite a sample's image on the disk."""
    pixels = train.images
    with pixels.cache.hold(pixels.shards[0]) as shard:
        path = pixels.cache.path(pixels.shards[0])
        data = bytearray(shard.read())
    offset, length = int(pixels._offset[row]), int(pixels._length[row])
    data[offset : offset + length] = bytes(length)
    path.write_bytes(data)


def test_stream_from_any_store_respects_the_cache_limit(store: ObjectStore, tmp_path: Path) -> None:
    two_drops(store, tmp_path)
    train = streaming(store, tmp_path / "cache")["train"]
    whole = sum(ref.shard.size for ref in train.images.shards)
    arriving = 2 * max(ref.shard.size for ref in train.images.shards)
    stream = loader(train)
    for _ in range(30):
        stream.next()
        assert cached_bytes(tmp_path / "cache" / "shards") <= train.images.cache.limit + arriving < whole / 2
    stream.close()


def cached_bytes(folder: Path) -> int:
    """Return the bytes of the shards in a cache. Meanwhile, a lock keeps all processes from evicting shards."""
    with (folder / "room.lock").open("ab") as room:
        flock(room, LOCK_EX)
        return sum(path.stat().st_size for path in folder.glob("*.tar"))


def test_second_stream_does_not_rewrite_the_catalogue(place: Path, streams: Splits) -> None:
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (place / "cache").glob("*.*"))
    again = streaming(LocalStore(place / "store"), place / "cache", ROOMY)
    assert torch.equal(again["val"].pixels(torch.arange(10)), streams["val"].pixels(torch.arange(10)))
    assert sorted((path.name, path.stat().st_mtime_ns) for path in (place / "cache").glob("*.*")) == before


def test_damaged_catalogue_is_rebuilt(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    two_drops(store, tmp_path)
    expected = streaming(store, tmp_path / "cache", ROOMY)["val"].pixels(torch.arange(9))
    for path in sorted((tmp_path / "cache").glob("*.val")):
        path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(streaming(store, tmp_path / "cache", ROOMY)["val"].pixels(torch.arange(9)), expected)


def test_manifest_with_other_counts_is_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    drop = upload(store, tmp_path / "d-1", "d-1", encoded(100))
    counts = {**drop.counts, "val": {**drop.counts["val"], "class-0": 99}}
    wrong = drop.model_copy(update={"counts": counts})
    with pytest.raises(DropError, match=r"drop d-1: its shards contain 17 samples of val, but its manifest says 111:"):
        load(store, tmp_path, [wrong])


def load(store: ObjectStore, folder: Path, drops: list[Drop], setting: Stream = ROOMY) -> Splits:
    from retrain.data.stream.dataset import load_streamed as load_stream

    where = {"store": TaskStore(store, KEYS.task), "image_size": SIZE, "device": CPU, "cache_dir": folder / "cache"}
    return load_stream(make_dataset(drops), drops, ["train"], setting=setting, **where)


def test_cache_without_room_for_the_window_is_refused(place: Path) -> None:
    setting = Stream(shuffle_shards=16, cache="100Ki")
    with pytest.raises(TaskError, match=r"data\.stream\.cache: 100Ki is too small to shuffle 16 shards"):
        streaming(LocalStore(place / "store"), place / "cache", setting)


def test_few_large_shards_need_room_only_for_themselves(place: Path) -> None:
    store = LocalStore(place / "store")
    sizes = [shard.size for drop in TaskStore(store, KEYS.task).drops.all() for shard in drop.shards]
    setting = Stream(shuffle_shards=2 * len(sizes), cache=str(len(sizes) * max(sizes)))
    assert streaming(store, place / "cache", setting)["train"].loader == "stream"


def dataset_of(samples: int) -> Dataset:
    return Dataset(drops=(DropRef(id="d", digest="d", samples=samples),), classes=("a", "b"))


def test_streaming_is_chosen_by_size_with_a_reason() -> None:
    task = Task(name="t", data=Data(image_size=100), resources=Resources(memory="6M"))
    within, beyond = choose_loading(task, dataset_of(100)), choose_loading(task, dataset_of(101))
    assert (within.kind, beyond.kind) == ("held", "stream")
    assert within.reason == "100 training samples take 3.0 MB when decoded, at most half of resources.memory (6M)"
    assert beyond.reason.endswith("more than half of resources.memory (6M)")
    asked = task.model_copy(update={"data": Data(image_size=100, loader="memory")})
    assert choose_loading(asked, dataset_of(101)).kind == "memory"
