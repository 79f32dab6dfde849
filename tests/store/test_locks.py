"""One process works on a task at a time. On the same machine, the lock of a dead process is free immediately."""

import logging
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from support.leases import HOURS, ShiftedClock, count_reads, wait_until
from support.processes import preloaded_retrain
from support.workspaces import Workspace, make_task

from retrain.store import LocalStore, ObjectStore
from retrain.store.keys import TaskKeys
from retrain.store.lease import LeaseLost, LeaseState, acquire
from retrain.store.locks import TaskLocked
from retrain.store.task_store import TaskStore

KEYS = TaskKeys("pets")
BUSY = 6.0
"""Seconds of a lease that even a busy machine renews in time."""
NOWHERE = "--host http://127.0.0.1:1"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Return a workspace with a drop and a task file."""
    workspace = Workspace(LocalStore(tmp_path / "store"), tmp_path)
    workspace.land(0, 1, 2)
    (tmp_path / "pets.json").write_text(make_task(store=str(tmp_path / "store")).model_dump_json())
    return workspace


def start_command(workspace: Workspace, *arguments: str) -> subprocess.Popen[str]:
    """Start a command on the task in a separate process."""
    environment = {**os.environ, "RETRAIN_CACHE": str(workspace.folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [preloaded_retrain(), *arguments, "--task", str(workspace.folder / "pets.json")]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def move_to_another_machine(store: ObjectStore) -> None:
    """Change the lease's holder to a process on another machine. This machine cannot observe that process."""
    state = LeaseState.model_validate_json(store.read(KEYS.lease)[0])
    holder = state.holder.model_copy(update={"machine": "another"})
    store.write(KEYS.lease, state.model_copy(update={"holder": holder}).to_bytes())


def test_commands_end_with_one_message_on_a_locked_task(workspace: Workspace) -> None:
    before = workspace.contents()
    message = (
        rf"retrain: \S+ \(process {os.getpid()}\) holds the lock of task pets and keeps renewing its lease, "
        r"now valid until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\. Try again when that process has ended\n$"
    )
    with workspace.store.try_lease(BUSY):
        commands = [start_command(workspace, *line.split()) for line in ("run", f"run --on kubeflow {NOWHERE}")]
        for command in commands:
            said = command.communicate()[1]
            assert command.returncode == 2
            assert re.search(message, said)
            assert "Traceback" not in said
    assert workspace.contents().keys() - before.keys() == {"pets/lease.json"}


def test_second_command_finds_the_task_done_or_locked(workspace: Workspace) -> None:
    commands = [start_command(workspace, "run"), start_command(workspace, "run")]
    said = ["".join(command.communicate()) for command in commands]
    assert len(re.findall("scratch-\\w+: there is no champion to continue from", "".join(said))) == 1
    (other,) = (text for text in said if "there is no champion" not in text)
    assert re.search("nothing to do: no drop has landed since|holds the lock of task pets", other)
    assert len(workspace.store.ledger.read()) == 1


def test_lock_of_a_killed_command_is_free_on_its_machine(workspace: Workspace) -> None:
    code = (
        "import os, signal, sys; from retrain.store.keys import TaskKeys; from retrain.store import open_store\n"
        "from retrain.store.lease import acquire\n"
        "assert acquire(open_store(sys.argv[1]), TaskKeys('pets').lease, 3600)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(workspace.folder / "store")], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = workspace.store.objects.read(KEYS.lease)[0]
    move_to_another_machine(workspace.store.objects)
    assert acquire(workspace.store.objects, KEYS.lease) is None, "this machine cannot know that the holder is dead"
    workspace.store.objects.write(KEYS.lease, left)
    with workspace.store.lock():
        pass


def test_command_waits_until_a_dead_process_lease_expires(
    store: ObjectStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "retrain")
    clock, dead = ShiftedClock(monkeypatch), acquire(store, KEYS.lease, HOURS)
    assert dead

    def work() -> None:
        with TaskStore(store, "pets").lock() as locked:
            locked.objects.write("pets/runs/late", b"ours")
            with pytest.raises(LeaseLost):
                dead.check()

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        wait_until(lambda: "pets: waits for " in caplog.text or working.done())
        assert not working.done()
        clock.ahead = 2 * HOURS
        working.result()
    assert acquire(store, KEYS.lease), "the lock was released"


def test_only_patient_commands_wait_for_a_live_lock(
    store: ObjectStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "retrain")
    reads, live = count_reads(store, monkeypatch), acquire(store, KEYS.lease, HOURS)
    assert live

    def start(pool: ThreadPoolExecutor, patient: bool) -> Future[None]:
        caplog.clear()
        started = pool.submit(lock_and_release, store, patient)
        wait_until(lambda: "pets: waits for " in caplog.text or started.done())
        return started

    with ThreadPoolExecutor(1) as pool:
        try:
            impatient = start(pool, patient=False)
            live.renew()
            with pytest.raises(TaskLocked):
                impatient.result()
            patient = start(pool, patient=True)
            for _ in range(2):
                live.renew()
                reads.clear()
                wait_until(lambda: reads[KEYS.lease] > 2 or patient.done())
            assert not patient.done()
        finally:
            live.release()
        patient.result()


def lock_and_release(store: ObjectStore, patient: bool) -> None:
    with TaskStore(store, "pets").lock(patient=patient):
        pass


def test_expired_lease_stays_valid_if_no_process_took_it(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, frozen = ShiftedClock(monkeypatch), acquire(store, KEYS.lease, HOURS)
    assert frozen
    clock.ahead = 2 * HOURS
    frozen.check()
    assert acquire(store, KEYS.lease) is None
