"""Drops in Google Cloud Storage and Azure are validated, committed and assigned to a run."""

from pathlib import Path

import pytest
from support.clouds import cloud_store
from support.ingest_routes import tree
from support.pictures import png
from support.uploads import upload
from support.watching import DATA, Recorder, TaskUnderTest

from retrain.config.task import Task
from retrain.data import source
from retrain.data.packing import pack
from retrain.errors import DropError
from retrain.store import LocalStore, open_store
from retrain.store.task_store import TaskStore
from retrain.watcher.events import WrittenObject
from retrain.watcher.queue import TaskLocations

BOTH = pytest.mark.parametrize("scheme", ["gs", "az"])


@BOTH
def test_watcher_commits_an_upload_in_a_cloud(scheme: str, request: pytest.FixtureRequest) -> None:
    url, server = cloud_store(scheme, request)
    watched, submitter = TaskUnderTest(Task(name="pets", store=url, endpoint_url=server, data=DATA)), Recorder()
    upload(watched.store.objects, "week-1", tree("cat", "dog", each=30))
    watcher = watched.watcher(submitter)
    assert watcher.once()
    assert watched.store.drops.read("week-1").samples("train")
    assert watched.owners() == {"week-1": submitter.runs[0]}
    upload(watched.store.objects, "week-2", {"notes.txt": b"no images"})
    assert watcher.once()
    assert watched.store.drops.quarantine_causes().keys() == {"week-2"}


@BOTH
def test_label_table_can_list_images_in_a_cloud(
    scheme: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, server = cloud_store(scheme, request)
    images = open_store(url, server)
    for number in range(30):
        images.write(f"{number}.png", png(number))
    rows = [f"{url}/{number}.png,{('cat', 'dog')[number % 2]}" for number in range(30)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
    monkeypatch.setattr(source, "open_store", lambda address: open_store(address, server))
    task, store = Task(name="pets", data=DATA), TaskStore(LocalStore(tmp_path / "store"), "pets")
    [(drop, *_)] = pack(tmp_path / "labels.csv", task, store)
    assert sum(drop.samples(split) for split in ("train", "val", "test")) == 30
    (tmp_path / "labels.csv").write_text(f"path,label\n{url}/gone.png,cat\n")
    with pytest.raises(DropError, match=r"gone\.png: there is no such object"):
        pack(tmp_path / "labels.csv", task, store)


@pytest.mark.parametrize("store", ["s3://data/models", "gs://data/models", "az://data/models"])
def test_object_in_any_cloud_completes_its_drop(store: str) -> None:
    locations = TaskLocations([Task(name="pets", store=store)])
    written = WrittenObject("data", "models/pets/drops/week-1/_SUCCESS")
    assert locations.completed_drops([written]) == {"pets": {"week-1"}}
