"""Inject faults at a write with a given number, not at a given time. The faults are then the same on every machine."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol

from retrain.store import LocalStore
from retrain.store.s3.store import S3Store
from support.programs import python_environment

METHODS = ("create", "replace", "write", "delete", "upload")


class Command(Protocol):
    """A started command."""

    def poll(self) -> int | None:
        """Return its exit code, or None if it has not ended."""


class Strike(NamedTuple):
    """A signal that a process sends to itself right after one of its writes."""

    signal: str
    write: int
    """Number of the write, from 1 on."""
    among: str = ""
    """Text in a key. Only writes of keys that contain it are counted."""


class Writes:
    """A counter of this process's writes that sends a signal at one of them. Writes of leases are not counted, because
    their number depends on time."""

    def __init__(self, strike: Strike | None) -> None:
        self.count = 0
        self._strike, self._struck_at, self._lock = strike, 0, Lock()

    def watch(self, *stores: type[Any]) -> None:
        """Count the writes of these classes from now on."""
        for store in stores:
            for name in METHODS:
                setattr(store, name, self._counted(getattr(store, name), name))

    def _counted(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        def write(store: Any, *arguments: Any) -> Any:
            result = method(store, *arguments)
            self._add(str(arguments[1 if name == "upload" else 0]))
            return result

        return write

    def _add(self, key: str) -> None:
        if key.endswith("lease.json"):
            return
        with self._lock:
            self.count += 1
            if self._strike is None or self._strike.among not in key:
                return
            self._struck_at += 1
            if self._struck_at == self._strike.write:
                os.kill(os.getpid(), signal.Signals[self._strike.signal])


def freeze_at_state(number: int) -> None:
    """Make this process stop itself (SIGSTOP) at its `number`-th write or removal of a checkpoint."""
    Writes(Strike("SIGSTOP", number, "/state/")).watch(LocalStore, S3Store)


def is_stopped(pid: int | None) -> bool:
    """Return whether a process is stopped by SIGSTOP. Return False if the process does not exist."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def wait_until_stopped(process: BaseProcess) -> None:
    """Wait until a process has stopped itself. Fail if it ends first."""
    while not is_stopped(process.pid):
        process.join(0.01)
        assert process.exitcode is None, f"ended with {process.exitcode} before it stopped"


def terminate_stopped(process: BaseProcess) -> None:
    """Send SIGTERM to a stopped process, and continue the process so that it receives the signal."""
    process.terminate()
    os.kill(process.pid or 0, signal.SIGCONT)


def frozen_environment(pid_file: Path, writes: int, **variables: str) -> dict[str, str]:
    """Return an environment for torchrun, whose first process then stops itself as in `freeze_at_state(writes)`.

    The process writes its id to `pid_file`. Only forks of `support.preloaded` read this environment.
    """
    return python_environment(FREEZE_PID_FILE=str(pid_file), FREEZE_AT_STATE=str(writes), **variables)


def freeze_if_requested() -> None:
    """Make this process stop itself, if its environment requests it and it is torchrun's first process.

    The other processes write their ids to files in the same folder.
    """
    pid_file, rank = os.environ.get("FREEZE_PID_FILE"), os.environ.get("RANK")
    if pid_file and rank == "0":
        freeze_at_state(int(os.environ["FREEZE_AT_STATE"]))
        Path(pid_file).write_text(f"{os.getpid()}\n")
    elif pid_file and rank:
        Path(f"{pid_file}-{rank}").write_text(f"{os.getpid()}\n")


def wait_for_end(pid: int) -> None:
    """Wait until another process's child has ended. It is a zombie until its parent reads its exit code."""
    with suppress(FileNotFoundError, ProcessLookupError):
        while "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
            time.sleep(0.01)


def wait_for_frozen(pid_file: Path, command: Command) -> int:
    """Wait until a process has stopped itself, and return the id that it wrote to `pid_file`.

    Fail if the command ends first.
    """
    while not (pid_file.exists() and pid_file.read_text().endswith("\n") and is_stopped(int(pid_file.read_text()))):
        assert command.poll() is None
        time.sleep(0.01)
    return int(pid_file.read_text())


def wait_for_pending(pid: int, number: signal.Signals) -> None:
    """Wait until a signal is pending for a stopped process. The process receives it when it continues."""
    while not any(int(pending, 16) >> (number - 1) & 1 for pending in _pending(pid)):
        time.sleep(0.01)


def _pending(pid: int) -> list[str]:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return [line.split()[1] for line in status if line.startswith(("SigPnd", "ShdPnd"))]
