"""Drops whose validation kills the process that does it, or the watcher as well: put aside after a few times."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest
from uploads import good, shard, task_in, upload
from watching import Place, Recorder, figures

from retrain.config import Model
from retrain.data.quarantine import causes
from retrain.errors import StoreError
from retrain.layout import Layout
from retrain.store import LocalStore
from retrain.trigger.validations import LIMIT, Validations, counted

LAYOUT = Layout("pets")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(task_in(tmp_path).model_copy(update={"model": Model(name="logistic")}))


def kill_first_child(number: int) -> None:
    """Do to this process's first child what the kernel does when memory is out."""
    while not (children := multiprocessing.active_children()):
        time.sleep(0.01)
    os.kill(children[0].pid or 0, number)


@contextmanager
def killing(number: int) -> Iterator[None]:
    killer = Thread(target=kill_first_child, args=(number,))
    killer.start()
    yield
    killer.join()


def begin_and_die(folder: str) -> None:
    """A watcher that goes with its validation: a container out of memory is killed whole."""
    with counted(LocalStore(Path(folder)), LAYOUT, "a-bad"):
        os.kill(os.getpid(), signal.SIGKILL)


def begun(place: Place) -> list[str]:
    return [entry.key for entry in place.store.list("pets/validations/")]


def test_a_drop_whose_validation_dies_three_times_is_put_aside_and_others_are_taken_in(place: Place) -> None:
    watcher, submitted = place.watcher(recorder := Recorder()), recorder.runs
    for drop in ("a-bad", "b-good"):
        upload(place.store, drop, {"train.tar": shard(good())})
    for signal_number in (signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV):
        with killing(signal_number):
            assert not watcher.once()
    assert [drop.id for drop in place.plan(submitted[0]).dataset.drops] == ["b-good"]
    assert begun(place) == ["pets/validations/a-bad.json"]
    assert causes(place.store, LAYOUT) == {}
    assert watcher.once()
    cause = (
        "3 validations came to no end, the last: take_in: its process was killed by SIGSEGV (a crash in native code)"
    )
    assert causes(place.store, LAYOUT) == {"a-bad": cause}
    assert figures(watcher)["retrain_watcher_quarantined_drops_total"] == 1
    assert begun(place) == []
    place.store.delete(LAYOUT.quarantine("a-bad"))
    assert watcher.once()
    assert place.store.read(LAYOUT.manifest("a-bad"))


def test_a_watcher_that_goes_with_its_validation_leaves_it_counted(place: Place, tmp_path: Path) -> None:
    upload(place.store, "a-bad", {"train.tar": shard(good())})
    for _ in range(LIMIT):
        process = multiprocessing.get_context("fork").Process(target=begin_and_die, args=(str(tmp_path / "store"),))
        process.start()
        process.join()
    assert place.watcher(Recorder()).once()
    cause = "3 validations came to no end, the last: whoever watched it was gone too"
    assert causes(place.store, LAYOUT) == {"a-bad": cause}


@pytest.mark.parametrize("end", [StoreError("away"), KeyboardInterrupt(), SystemExit()])
def test_an_error_or_a_wish_to_stop_ends_the_row(place: Place, end: BaseException) -> None:
    key = LAYOUT.validations("a-bad")
    place.store.write(key, Validations(drop="a-bad", begun=2).to_bytes())
    with suppress(type(end)), counted(place.store, LAYOUT, "a-bad") as before:
        assert before.begun == 2
        assert Validations.model_validate_json(place.store.read(key)[0]).begun == 3
        raise end
    assert begun(place) == []
