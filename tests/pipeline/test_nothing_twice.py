"""Nothing is read, hashed or decoded twice on one machine. The tests count the calls of the store and the decoder."""

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from support.pictures import encoded
from support.trainings import pixels
from support.uploads import shard, upload
from support.workspaces import EACH, Workspace, make_task

from retrain import store
from retrain.data import cache, decoded
from retrain.data.uploads import ingest_drop
from retrain.pipeline import stages
from retrain.pipeline.executor import InProcessExecutor
from retrain.pipeline.planning import Request
from retrain.records import Drop, RunRecord
from retrain.store import LocalStore
from retrain.watcher import ingestion
from retrain.watcher.health import Health
from retrain.watcher.task_watch import TaskWatch

CLASSES = (0, 1, 2)


class CountingStore(LocalStore):
    """A local store that counts how often each object is opened, by any method."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.opened = Counter[str]()

    def open(self, key: str) -> Any:
        file = super().open(key)
        self.opened[key] += 1
        return file

    def take(self, part: str) -> dict[str, int]:
        """Return how often the objects whose keys contain `part` were opened, by the last part of their keys."""
        return {key.rpartition("/")[2]: count for key, count in self.opened.items() if part in key}


class Counted:
    """A workspace that counts how often objects are opened, images decoded, and arrays hashed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = CountingStore(folder / "store")
        self.workspace = Workspace(self.store, folder / "work")
        self.decoded = Counter[bytes]()
        self.hashed = Counter[str]()
        monkeypatch.setattr(PIL.Image, "open", self._counting_open(PIL.Image.open))
        counting = self._counting_digest(decoded.digest_arrays)
        for module in (decoded, cache):
            monkeypatch.setattr(module, "digest_arrays", counting)

    def clear(self) -> None:
        for counts in (self.store.opened, self.decoded, self.hashed):
            counts.clear()

    def land(self, drop: str, seed: int) -> None:
        """Upload one shard as a producer does."""
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

    def upload(self, drop: str, seed: int) -> Drop:
        """Upload one shard, and commit it on another machine than the one that trains."""
        self.land(drop, seed)
        committed = ingest_drop(drop, make_task(), self.workspace.store)
        assert isinstance(committed, Drop)
        return committed

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> TaskWatch:
        """Return the watcher's `TaskWatch` on a machine that validates and trains."""
        folder = self.workspace.folder / "cache"
        monkeypatch.setenv("RETRAIN_CACHE", str(folder))
        task = make_task(store=str(self.store.root))
        monkeypatch.setattr(store, "LocalStore", lambda root: self.store)
        return TaskWatch(task, InProcessExecutor("cpu"), Health([task.name]), cache_dir=folder)

    def run(self) -> RunRecord:
        ended = stages.run_task(self.workspace.context, make_task(), Request())
        assert isinstance(ended, RunRecord), ended
        return ended

    def _counting_open(self, decode: Callable[..., PIL.Image.Image]) -> Callable[..., PIL.Image.Image]:
        def counting(file: io.BytesIO, **options: Any) -> PIL.Image.Image:
            self.decoded[file.getvalue()] += 1
            return decode(file, **options)

        return counting

    def _counting_digest(self, digest: Callable[..., str]) -> Callable[..., str]:
        def counting(arrays: Any) -> str:
            found = digest(arrays)
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
    counted.workspace.pack(*CLASSES)
    assert counted.store.take("/drops/") == {}
    assert list(counted.decoded.values()) == once(EACH * len(CLASSES))


def test_run_reads_and_decodes_the_new_drop_once(counted: Counted) -> None:
    counted.upload("first", seed=0)
    counted.run()
    new = counted.upload("second", seed=1)
    counted.clear()
    assert counted.run().method == "continuous"
    assert counted.store.take(f"/{new.id}/") == {
        "drop.json": 2,  # one read for the plan, and one for all stages
        new.shards[0].name: 1,
        new.sample_list.name: 1,
    }
    assert list(counted.decoded.values()) == once(EACH * len(CLASSES))
    assert list(counted.hashed.values()) == once(3), "one hash each of train, val and test"


def test_run_reads_nothing_but_the_manifest_of_an_earlier_drop(counted: Counted) -> None:
    counted.upload("first", seed=0)
    counted.run()
    counted.upload("second", seed=1)
    counted.clear()
    counted.run()
    assert counted.store.take("/first/") == {"drop.json": 1}


def test_run_reads_its_own_model_once_and_no_counters(counted: Counted) -> None:
    counted.upload("first", seed=0)
    run = counted.run()
    large = {name: count for name, count in counted.store.take(f"/{run.run_id}/").items() if "safetensors" in name}
    assert large == {"model.safetensors": 1}


def test_next_run_reads_the_champion_once(counted: Counted) -> None:
    counted.upload("first", seed=0)
    champion = counted.run().run_id
    counted.upload("second", seed=1)
    counted.clear()
    counted.run()
    found = counted.store.take(f"/{champion}/")
    assert found["model.safetensors"] == 1, "one read for both the start from the champion and the comparison with it"
    assert found["first.safetensors"] == 1, (
        "one read of its learning-speed index, for both the sampling and the end of the run"
    )


def test_task_on_one_machine_reads_and_decodes_nothing_twice(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a task from the upload to the promotion, with the validation in this process so that it is counted too."""
    monkeypatch.setattr(ingestion, "run_in_subprocess", lambda label, seconds, work, *arguments: work(*arguments))
    watch = counted.watch(monkeypatch)
    retrain_on(counted, watch, "first", seed=0)
    counted.clear()
    retrain_on(counted, watch, "second", seed=1)
    opened = counted.store.take("")
    assert {name for name, count in opened.items() if count > 1 and not name.endswith(".json")} == set()
    assert opened["train-000000.tar"] == 1
    assert list(counted.decoded.values()) == once(EACH * len(CLASSES))
    assert list(counted.hashed.values()) == once(3), (
        "only the new drop's splits: the splits of the first drop are verified already"
    )
    assert opened["drop.json"] <= 3 * 2, "one read each by ingestion, plan and run, for two drops"


def test_run_uses_the_pixels_that_validation_decoded(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The validation runs in a separate process, so only the work of the watcher and the run is counted."""
    watch = counted.watch(monkeypatch)
    retrain_on(counted, watch, "first", seed=0)
    assert counted.store.take(".tar") == {}
    assert not counted.decoded
    assert not counted.hashed


def retrain_on(counted: Counted, watch: TaskWatch, drop: str, seed: int) -> None:
    """Upload a drop, and let the watcher validate it and train on it. The model must be promoted."""
    counted.land(drop, seed)
    watch.check_drops()
    watch.advance()
    newest = watch.store.ledger.read()[-1]
    assert newest.result
    assert watch.store.champion.read().run_id == newest.run_id
