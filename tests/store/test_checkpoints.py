"""Checkpoints: the newest two stay in the store, incomplete ones are ignored, and training continues during a write."""

import threading
from pathlib import Path

import pytest

from retrain.errors import StoreError
from retrain.store import LocalStore, ObjectStore
from retrain.store.checkpoints import Checkpoints
from retrain.store.task_store import TaskStore


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def checkpoints(store: ObjectStore, run_id: str = "scratch-1") -> Checkpoints:
    return TaskStore(store, "pets").run(run_id).checkpoints()


def keys(store: ObjectStore) -> list[str]:
    return [entry.key for entry in store.list()]


def save(store: ObjectStore, *iterations: int) -> None:
    with checkpoints(store) as saving:
        for iteration in iterations:
            saving.save(iteration, b"state %d" % iteration)


def test_newest_checkpoint_is_loaded_and_two_stay_in_the_store(store: ObjectStore) -> None:
    assert checkpoints(store).load() is None
    save(store, 9, 10, 100, 1000)
    assert checkpoints(store).load() == b"state 1000"
    assert [key.split("/")[-1][:12] for key in keys(store)] == ["000000000100", "000000001000"]


def test_previous_checkpoint_is_loaded_if_newest_is_incomplete(
    local: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    save(local, 1, 2)
    older, newest = keys(local)
    local.write(newest, b"state")
    assert checkpoints(local).load() == b"state 1"
    assert keys(local) == [older]
    assert [f"{newest}: this checkpoint is damaged, so it is removed" in text for text in caplog.messages] == [True]
    save(local, 2)
    assert checkpoints(local).load() == b"state 2"


def test_incomplete_checkpoints_are_not_loaded(local: LocalStore) -> None:
    save(local, 1, 2)
    for key in keys(local):
        local.write(key, b"")
    assert checkpoints(local).load() is None


def test_each_run_loads_only_its_own_checkpoints(local: LocalStore) -> None:
    save(local, 5)
    with checkpoints(local, "scratch-2") as other:
        assert other.load() is None
        other.save(7, b"other")
        other.clear()
    assert checkpoints(local).load() == b"state 5"


def test_clearing_also_removes_checkpoints_being_written(local: LocalStore) -> None:
    with checkpoints(local) as saving:
        saving.save(1, b"x" * 10_000_000)
        saving.clear()
    assert keys(local) == []


class Slow(LocalStore):
    """A store whose writes wait until the test sets the event `let`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.let = threading.Event()

    def write(self, key: str, data: bytes) -> None:
        assert self.let.wait(60)
        super().write(key, data)


def test_save_returns_before_the_write_and_exit_waits_for_it(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    with checkpoints(slow) as saving:
        saving.save(1, b"state 1")
        assert keys(slow) == []
        slow.let.set()
    assert checkpoints(slow).load() == b"state 1"


def test_failed_checkpoint_write_is_raised_at_next_save_or_exit(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    broken = LocalStore(tmp_path / "file")
    with pytest.raises(StoreError, match="file"), checkpoints(broken) as saving:
        saving.save(1, b"state 1")
    with checkpoints(broken) as saving:
        saving.save(1, b"state 1")
        with pytest.raises(StoreError, match="file"):
            saving.save(2, b"state 2")
