"""Nothing is read, hashed or decoded twice on one machine, counted at the store and at the decoder."""

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from support.lives import EACH, Life, make_task
from support.pictures import encoded
from support.trainings import pixels
from support.uploads import shard, upload

from retrain.data import cache
from retrain.data.uploads import ingest_drop
from retrain.pipeline import stages
from retrain.pipeline.planning import Request
from retrain.records import Drop, RunRecord
from retrain.store import LocalStore

CLASSES = (0, 1, 2)


class CountingStore(LocalStore):
    """A local store that counts how often each object is opened, in whichever way."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.opened = Counter[str]()

    def open(self, key: str) -> Any:
        file = super().open(key)
        self.opened[key] += 1
        return file

    def take(self, part: str) -> dict[str, int]:
        """Return the counts of the objects whose keys contain this, by the last part of the key."""
        return {key.rpartition("/")[2]: count for key, count in self.opened.items() if part in key}


class Counted:
    """A task's life whose store and decoder count."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = CountingStore(folder / "store")
        self.life = Life(self.store, folder / "work")
        self.decoded = Counter[bytes]()
        self.hashed = Counter[str]()
        monkeypatch.setattr(PIL.Image, "open", self._counting_open(PIL.Image.open))
        monkeypatch.setattr(cache, "_sha256", self._counting_sha256(cache._sha256))

    def clear(self) -> None:
        for counts in (self.store.opened, self.decoded, self.hashed):
            counts.clear()

    def upload(self, drop: str, seed: int) -> Drop:
        """Upload one shard as a producer does, and commit it as the watcher does."""
        labels = torch.tensor(CLASSES).repeat_interleave(EACH)
        images = pixels(labels, seed)
        members = [
            (f"{seed}-{number}.{extension}", data)
            for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True))
            for extension, data in (
                ("png", encoded(PIL.Image.fromarray(image.permute(1, 2, 0).numpy()))),
                ("cls", f"class-{label}".encode()),
            )
        ]
        upload(self.store, drop, {"train-000000.tar": shard(members)})
        return ingest_drop(drop, make_task(), self.life.store)

    def run(self) -> RunRecord:
        ended = stages.run_task(self.life.context, make_task(), Request())
        assert isinstance(ended, RunRecord), ended
        return ended

    def _counting_open(self, decode: Callable[..., PIL.Image.Image]) -> Callable[..., PIL.Image.Image]:
        def counting(file: io.BytesIO, **options: Any) -> PIL.Image.Image:
            self.decoded[file.getvalue()] += 1
            return decode(file, **options)

        return counting

    def _counting_sha256(self, digest: Callable[..., str]) -> Callable[..., str]:
        def counting(tensors: Any) -> str:
            found = digest(tensors)
            self.hashed[found] += 1
            return found

        return counting


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(tmp_path, monkeypatch)


def once(count: int) -> list[int]:
    return [1] * count


def test_validation_reads_each_shard_and_image_once(counted: Counted) -> None:
    drop = counted.upload("first", seed=0)
    assert counted.store.take("/drops/") == {drop.shards[0].name: 1}
    assert list(counted.decoded.values()) == once(EACH * len(CLASSES))


def test_packing_decodes_each_image_once_and_reads_no_shard(counted: Counted) -> None:
    counted.life.land(*CLASSES)
    assert counted.store.take("/drops/") == {}
    assert list(counted.decoded.values()) == once(EACH * len(CLASSES))


def test_run_reads_and_decodes_the_new_drop_once(counted: Counted) -> None:
    counted.upload("first", seed=0)
    counted.run()
    new = counted.upload("second", seed=1)
    counted.clear()
    assert counted.run().method == "continuous"
    assert counted.store.take(f"/{new.id}/") == {
        "drop.json": 2,  # planned from, and then read for all stages together
        new.shards[0].name: 1,
        new.sample_list.name: 1,
    }
    assert list(counted.decoded.values()) == once(EACH * len(CLASSES))
    assert list(counted.hashed.values()) == once(3), "train, val and test"


def test_run_reads_nothing_but_the_manifest_of_an_earlier_drop(counted: Counted) -> None:
    counted.upload("first", seed=0)
    counted.run()
    counted.upload("second", seed=1)
    counted.clear()
    counted.run()
    assert counted.store.take("/first/") == {"drop.json": 1}


def test_run_reads_its_own_model_once_and_no_index(counted: Counted) -> None:
    counted.upload("first", seed=0)
    run = counted.run()
    large = {name: count for name, count in counted.store.take(f"/{run.run_id}/").items() if "safetensors" in name}
    assert large == {"model.safetensors": 1}


def test_next_run_reads_the_champion_to_start_and_to_compare(counted: Counted) -> None:
    counted.upload("first", seed=0)
    champion = counted.run().run_id
    counted.upload("second", seed=1)
    counted.clear()
    counted.run()
    assert counted.store.take(f"/{champion}/")["model.safetensors"] == 2
    assert counted.store.take(f"/{champion}/")["first.safetensors"] == 2, "its index: at the begin, and at the end"
