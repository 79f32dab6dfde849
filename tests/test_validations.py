"""Drops whose validation kills the process that does it, or the watcher as well: put aside after a few times.

However many watchers there are: only what has died is counted, and not what another is just at.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event, Thread

import pytest
from uploads import good, shard, task_in, upload
from watching import Place, Recorder, figures

from retrain.config import Model
from retrain.data.quarantine import causes
from retrain.errors import StoreError
from retrain.layout import Layout
from retrain.store import LocalStore, Store
from retrain.trigger.at_work import Busy
from retrain.trigger.lease import LeaseState
from retrain.trigger.task_watch import Pace
from retrain.trigger.validations import LIMIT, Validations, counted

LAYOUT = Layout("pets")
WATCHERS = LIMIT + 2
LEASE = 3.0
"""Seconds: a lease that a busy machine keeps easily."""


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


@contextmanager
def killing_all() -> Iterator[set[int | None]]:
    """Kill every child that appears; yields the numbers of those that were."""
    killed: set[int | None] = set()
    stopped = Event()

    def kill() -> None:
        while not stopped.wait(0.01):
            for child in multiprocessing.active_children():
                killed.add(child.pid)
                child.kill()

    killer = Thread(target=kill)
    killer.start()
    try:
        yield killed
    finally:
        stopped.set()
        killer.join()


def freeze_next_child(frozen: list[BaseProcess], watcher: Future[bool]) -> None:
    """Stop the child that a watcher begins to validate in, unless it ends without one."""
    while not watcher.done():
        for child in multiprocessing.active_children():
            if child not in frozen:
                os.kill(child.pid or 0, signal.SIGSTOP)
                frozen.append(child)
                return
        time.sleep(0.01)


def begin_and_die(folder: str, seconds: float = 60) -> None:
    """A watcher that goes with its validation: a container out of memory is killed whole."""
    with counted(LocalStore(Path(folder)), LAYOUT, "a-bad", seconds):
        os.kill(os.getpid(), signal.SIGKILL)


def away(place: Place) -> datetime:
    """Make the validation's lease that of a process on another machine, of which nothing can be seen here.

    Returns when it expires.
    """
    key = LAYOUT.validating("a-bad").lease
    state = LeaseState.model_validate_json(place.store.read(key)[0])
    holder = state.holder.model_copy(update={"machine": "another"})
    place.store.write(key, state.model_copy(update={"holder": holder}).to_bytes())
    return state.expires_at


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


def test_a_validation_that_died_with_a_watcher_elsewhere_is_counted_once_its_lease_has_expired(
    place: Place, tmp_path: Path
) -> None:
    process = multiprocessing.get_context("fork").Process(target=begin_and_die, args=(str(tmp_path / "store"), 2))
    process.start()
    process.join()
    expires_at = away(place)
    with counted(place.store, LAYOUT, "a-bad", 2) as before:
        assert before.begun == 1
        assert datetime.now(UTC) >= expires_at
    assert begun(place) == []


def test_a_validation_that_another_watcher_is_at_is_not_counted(store: Store) -> None:
    with counted(store, LAYOUT, "a", LEASE) as first:
        assert first.begun == 0
        with pytest.raises(Busy, match="is at work on pets/validations"), counted(store, LAYOUT, "a", LEASE):
            pass
        assert Validations.model_validate_json(store.read(LAYOUT.validations("a"))[0]).begun == 1
    assert list(store.list("pets/validations/")) == []


def test_of_watchers_that_find_one_drop_at_once_one_validates_it_and_none_is_counted_as_a_death(place: Place) -> None:
    upload(place.store, "a-good", {"train.tar": shard(good())})
    watchers = [place.watcher(Recorder(), pace=Pace(lease=LEASE)) for _ in range(WATCHERS)]
    frozen: list[BaseProcess] = []
    with ThreadPoolExecutor(WATCHERS) as pool:
        try:
            looks = []
            for watcher in watchers:
                looks.append(pool.submit(watcher.once))
                freeze_next_child(frozen, looks[-1])
            assert causes(place.store, LAYOUT) == {}
            assert [look.result() for look in looks[1:]] == [True] * (WATCHERS - 1)
        finally:
            for child in frozen:
                os.kill(child.pid or 0, signal.SIGCONT)
        assert looks[0].result()
    assert len(frozen) == 1
    assert place.store.read(LAYOUT.manifest("a-good"))
    assert begun(place) == []


def test_a_drop_that_kills_is_put_aside_after_three_deaths_however_many_watchers_are_at_it(place: Place) -> None:
    upload(place.store, "a-bad", {"train.tar": shard(good())})
    watchers = [place.watcher(Recorder(), pace=Pace(lease=LEASE)) for _ in range(WATCHERS)]
    with ThreadPoolExecutor(WATCHERS) as pool, killing_all() as killed:
        for _ in range(LIMIT + 1):
            list(pool.map(lambda watcher: watcher.once(), watchers))
    assert causes(place.store, LAYOUT)["a-bad"].startswith("3 validations came to no end, the last: take_in")
    assert len(killed) == LIMIT
    assert begun(place) == []


@pytest.mark.parametrize("end", [StoreError("away"), KeyboardInterrupt(), SystemExit()])
def test_an_error_or_a_wish_to_stop_ends_the_row(place: Place, end: BaseException) -> None:
    key = LAYOUT.validations("a-bad")
    place.store.write(key, Validations(drop="a-bad", begun=2).to_bytes())
    with suppress(type(end)), counted(place.store, LAYOUT, "a-bad") as before:
        assert before.begun == 2
        assert Validations.model_validate_json(place.store.read(key)[0]).begun == 3
        raise end
    assert begun(place) == []
