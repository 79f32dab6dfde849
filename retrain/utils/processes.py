"""Run functions in subprocesses that may crash or hang, and count the cores that this process may use."""

import math
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from retrain.errors import UserError
from retrain.utils import logs

Outcome = TypeVar("Outcome")


class WorkerCrashed(UserError):
    """A subprocess died, or was killed after its time limit."""


SPAWN = multiprocessing.get_context("spawn")
"""Context that starts processes without a fork, because a fork of a process that has used torch may hang."""


def run_in_subprocess(label: str, seconds: float, function: Callable[..., Outcome], *arguments: Any) -> Outcome:
    """Call a function in a new process, and return its result or raise its exception. It logs like this process.

    Raises `WorkerCrashed` if that process dies, or takes longer than `seconds` and is killed. The message begins with
    `label`, the name of the work ("validating drop d-7").
    """
    receiver, sender = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(
        target=_call_and_send, args=(sender, logs.read_settings(), function, arguments), daemon=True
    )
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            raise WorkerCrashed(f"{label}: not done after {seconds:.0f} s, so it was killed")
        outcome = receiver.recv()
    except EOFError:
        process.join()
        raise WorkerCrashed(f"{label}: its process {_describe_exit(process.exitcode)}") from None
    finally:
        process.kill()
        process.join()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome  # type: ignore[no-any-return]  # a pipe can send any object


def _describe_exit(exitcode: int | None) -> str:
    """Return a text about the end of a process. A negative code is a signal."""
    if exitcode is None or exitcode >= 0:
        return f"died with exit code {exitcode}"
    known = {
        -signal.SIGKILL: "SIGKILL (perhaps for lack of memory)",
        -signal.SIGSEGV: "SIGSEGV (a crash in native code)",
    }
    return f"was killed by {known.get(exitcode, f'signal {-exitcode}')}"


def _call_and_send(
    pipe: Connection, log: logs.Settings | None, function: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    if log:
        logs.configure_logging(*log)
    exit_with_parent()  # if the watcher is killed, its work must not continue while the next watcher works
    try:
        outcome = function(*arguments)
    except Exception as error:
        outcome = error
    pipe.send(outcome)


def exit_with_parent() -> None:
    """Exit this process, started by `multiprocessing`, as soon as its parent has ended."""
    Thread(target=_exit_after, args=(multiprocessing.parent_process(),), daemon=True).start()


def _exit_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""The file with a container's CPU quota on Linux."""


def available_cores() -> int:
    """Return the number of cores for each of torchrun's LOCAL_WORLD_SIZE processes on this machine; at least 1."""
    allowed = min(len(os.sched_getaffinity(0)), _cpu_quota())
    return max(1, int(allowed) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def _cpu_quota() -> float:
    """Return this container's CPU quota in cores. The process's affinity does not include it."""
    try:
        quota, period = QUOTA.read_text().split()
    except OSError:
        return math.inf
    return math.inf if quota == "max" else math.ceil(int(quota) / int(period))
