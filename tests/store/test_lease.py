"""A lease has one holder at a time. A process that was frozen until its lease expired cannot write."""

import os
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.leases import HOURS, ShiftedClock
from support.processes import forkserver
from support.programs import AWS
from support.writes import wait_until_stopped

from retrain.store import LocalStore, ObjectStore, open_store
from retrain.store.keys import TaskKeys
from retrain.store.lease import LeaseLost, LeaseState, acquire
from retrain.store.locks import LeaseGuardedStore
from retrain.store.task_store import TaskStore
from retrain.training.preemption import Preempted

KEYS = TaskKeys("pets")
FREEZING = 1.0
"""Seconds of a lease that expires while its holder is frozen."""
BUSY = 6.0
"""Seconds of a lease that even a busy machine renews in time."""


def state(store: ObjectStore) -> LeaseState:
    return LeaseState.model_validate_json(store.read(KEYS.lease)[0])


def test_held_lease_cannot_be_acquired_by_another_process(store: ObjectStore) -> None:
    with TaskStore(store, "pets").try_lease() as lease:
        assert lease
        first = state(store).holder
        assert acquire(store, KEYS.lease) is None
    with TaskStore(store, "pets").try_lease() as lease:
        assert lease
        assert state(store).holder.name != first.name


def test_only_one_of_eight_racing_threads_gets_the_lease(store: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(lambda _: acquire(store, KEYS.lease), range(8)))
    assert len([lease for lease in leases if lease]) == 1


def test_heartbeat_renews_a_held_lease(store: ObjectStore) -> None:
    with TaskStore(store, "pets").try_lease(BUSY) as lease:
        first = state(store).expires_at
        while state(store).expires_at == first:
            time.sleep(0.05)
        assert lease
        lease.check()
        assert acquire(store, KEYS.lease) is None


def test_expired_lease_is_taken_over(store: ObjectStore) -> None:
    assert acquire(store, KEYS.lease)
    assert acquire(store, KEYS.lease) is None
    first = state(store).holder
    store.write(KEYS.lease, state(store).model_copy(update={"expires_at": datetime.now(UTC)}).to_bytes())
    assert acquire(store, KEYS.lease)
    assert state(store).holder.name != first.name


def test_frozen_lease_holder_cannot_write_after_waking(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, frozen = ShiftedClock(monkeypatch), acquire(store, KEYS.lease, HOURS)
    assert frozen
    fenced = LeaseGuardedStore(store, frozen)
    version = fenced.create("pets/champion.json", b"before")
    clock.ahead = 2 * HOURS
    successor = acquire(store, KEYS.lease)
    assert successor
    holder = state(store).holder
    late = [
        lambda: fenced.create("pets/ledger/late.json", b"late"),
        lambda: fenced.replace("pets/champion.json", b"late", version),
        lambda: fenced.write("pets/runs/late", b"late"),
        lambda: fenced.delete("pets/champion.json"),
        frozen.renew,
    ]
    for write in late:
        with pytest.raises(LeaseLost):
            write()
    frozen.release()
    assert fenced.read("pets/champion.json")[0] == b"before"
    assert [entry.key for entry in fenced.list("pets/")] == ["pets/champion.json", "pets/lease.json"]
    successor.renew()
    assert state(store).holder == holder


def hold_freeze_and_write(url: str, endpoint_url: str | None) -> None:
    """Write under a lease before and after being frozen. Exit with code 3 if another process has the lease."""
    os.environ.update(AWS)
    store = open_store(url, endpoint_url)
    with TaskStore(store, "pets").try_lease(FREEZING) as lease:
        assert lease
        fenced = LeaseGuardedStore(store, lease)
        fenced.write("pets/runs/late", b"in time")
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            fenced.write("pets/runs/late", b"too late")
        except LeaseLost:
            sys.exit(3)


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_process_frozen_past_its_lease_overwrites_nothing(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    endpoint_url = request.getfixturevalue("s3") if kind == "s3" else None
    url = f"s3://{request.getfixturevalue('bucket')}" if endpoint_url else str(tmp_path)
    store = open_store(url, endpoint_url)
    process = forkserver().Process(target=hold_freeze_and_write, args=(url, endpoint_url))
    process.start()
    wait_until_stopped(process)
    with TaskStore(store, "pets").lock() as locked:
        locked.objects.write("pets/runs/late", b"ours")
        os.kill(process.pid or 0, signal.SIGCONT)
        process.join(240)
    assert process.exitcode == 3
    assert store.read("pets/runs/late")[0] == b"ours"


def test_late_renewal_fails_if_another_process_has_the_lease(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, late = ShiftedClock(monkeypatch), acquire(store, KEYS.lease, HOURS)
    clock.ahead = 2 * HOURS
    assert late
    assert acquire(store, KEYS.lease)
    with pytest.raises(LeaseLost, match="another process has taken the lease"):
        late.renew()
    with pytest.raises(LeaseLost, match="another process has taken the lease"):
        late.check()


def test_lease_is_released_when_the_work_fails(store: ObjectStore) -> None:
    with pytest.raises(ZeroDivisionError), TaskStore(store, "pets").try_lease():
        raise ZeroDivisionError
    assert acquire(store, KEYS.lease)


@pytest.mark.parametrize("end", [None, Preempted()])
def test_failed_lease_release_does_not_change_the_outcome(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, end: BaseException | None
) -> None:
    store = LocalStore(tmp_path / "store")
    with pytest.raises(type(end)) if end else nullcontext(), TaskStore(store, "pets").try_lease():
        shutil.rmtree(store.root)
        store.root.write_text("no folder")
        if end:
            raise end
    assert "the lease could not be released and expires by itself: " in caplog.text


def test_write_after_the_release_of_a_lease_is_refused(store: ObjectStore) -> None:
    with TaskStore(store, "pets").lock(seconds=0.2) as locked:
        locked.objects.write("during", b"")
    with pytest.raises(LeaseLost, match="was released"):
        locked.objects.write("after", b"")
    assert [entry.key for entry in store.list() if entry.key in ("during", "after")] == ["during"]
    assert acquire(store, KEYS.lease)
