"""Uploads of known images with new labels become amendments of earlier drops, even if their validation is killed."""

import os
import re
import signal
from functools import partial
from pathlib import Path

import pytest
from support.pictures import png
from support.uploads import task_in, upload
from support.watching import Recorder, TaskUnderTest, metrics_of

from retrain.config.task import Model, Task
from retrain.data.uploads import ingest_drop
from retrain.errors import DropError
from retrain.pipeline.status import read_status
from retrain.store import LocalStore
from retrain.store.task_store import TaskStore
from retrain.utils.clock import utc_now
from retrain.watcher import ingestion
from retrain.watcher.health import Health
from retrain.watcher.ingestion import ValidationOutcome
from retrain.watcher.notifications import collect_notifications
from retrain.watcher.task_watch import TaskWatch


@pytest.fixture
def watched(tmp_path: Path) -> TaskUnderTest:
    watched = TaskUnderTest(task_in(tmp_path).model_copy(update={"model": Model(name="logistic")}))
    upload(watched.store.objects, "first", {f"cat/{number}.png": png(number) for number in range(60)})
    return watched


def relabelled(count: int) -> dict[str, bytes]:
    """Return images of the drop `first` in a folder of dogs. In the drop, they are cats."""
    return {f"dog/{number}.png": png(number) for number in range(count)}


class Killed(LocalStore):
    """A store whose process is killed just before or after it writes an amendment."""

    when = "after"

    def create(self, key: str, data: bytes) -> str:
        if "/amendments/" not in key:
            return super().create(key, data)
        if self.when == "after":
            super().create(key, data)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("this process is dead")


def validate_and_die(folder: Path, when: str, task: Task, drop: str, cache_dir: Path | None) -> ValidationOutcome:
    """Validate a drop in a process that is killed when it writes the amendment."""
    store = Killed(folder)
    store.when = when
    ingest_drop(drop, task, TaskStore(store, "pets"), cache_dir=cache_dir)
    raise AssertionError("no amendment was written")


AMENDED = "amendment 1 (upload second): 3 samples of drop first relabelled"


@pytest.mark.parametrize("when", ["before", "after", "never"])
def test_upload_of_new_labels_becomes_an_amendment(
    watched: TaskUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    watcher = watched.watcher(recorder := Recorder())
    assert watcher.once()
    upload(watched.store.objects, "second", relabelled(3))
    if when != "never":
        monkeypatch.setattr(ingestion, "validate_drop", partial(validate_and_die, tmp_path / "store", when))
        assert not watcher.once()
        monkeypatch.undo()
    with caplog.at_level("INFO", "retrain"):
        assert watcher.once()
        assert watcher.once()
    assert len([line for line in caplog.messages if "has no new image: it is an amendment" in line]) == (
        0 if when == "after" else 1
    )
    [amendment] = watched.store.drops.amendments.read()
    assert str(amendment) == AMENDED
    assert {(change.before, change.after) for change in amendment.changes} == {("cat", "dog")}
    assert [drop.id for drop in watched.store.drops.all()] == ["first"]
    assert watched.store.drops.quarantine_causes() == {}
    assert metrics_of(watcher)["retrain_watcher_quarantined_drops_total"] == 0
    assert len(recorder.runs) == 1
    status = read_status(watched.task, watched.store)
    assert status.newest_amendments == (AMENDED,)
    reports = watched.store.drops.quarantine_reports()
    events = collect_notifications(watched.task, watched.store, [], [], reports, utc_now())
    assert [event for event in events if event.kind == "drop.quarantined"] == []
    with pytest.raises(
        DropError, match=rf"second is not a drop: it had only new labels, and became {re.escape(AMENDED)}"
    ):
        watched.store.drops.read("second")


def test_new_files_in_an_amendments_upload_are_reported(
    watched: TaskUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    upload(watched.store.objects, "second", relabelled(1))
    watch = TaskWatch(watched.task, Recorder(), Health(["pets"]))
    watch.check_drops(["first", "second"])
    upload(watched.store.objects, "second", {"dog/99.png": png(99)})
    watch.check_drops(["second"])
    ended = "amendment 1 (upload second): 1 sample of drop first relabelled"
    assert caplog.messages[-1] == (
        f"pets: upload second has already become {ended}, so its files are not read again: upload new files as a drop "
        "with another id"
    )
