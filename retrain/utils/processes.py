"""Subprocesses that may crash or hang, and the processor cores that this process may use."""

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

Outcome = TypeVar("Outcome")


class WorkerCrashed(UserError):
    """The process died, or had to be killed."""


FRESH = multiprocessing.get_context("spawn")
"""Starts processes without anything that this one has loaded."""


def run_in_subprocess(label: str, seconds: float, function: Callable[..., Outcome], *arguments: Any) -> Outcome:
    """Return what a function returns, or raise what it raises, from a fresh process.

    Raises `WorkerCrashed` if that process dies, or is not done after `seconds`: then it is killed. The message begins
    with `label`, which tells people what the process was doing ("validating drop d-7").
    """
    ours, theirs = FRESH.Pipe(duplex=False)
    process = FRESH.Process(target=_call_and_send, args=(theirs, function, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(seconds):
            raise WorkerCrashed(f"{label}: not done after {seconds:.0f} s")
        outcome = ours.recv()
    except EOFError:
        process.join()
        raise WorkerCrashed(f"{label}: its process {_describe_exit(process.exitcode)}") from None
    finally:
        process.kill()
        process.join()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome  # type: ignore[no-any-return]  # a pipe carries anything


def _describe_exit(exitcode: int | None) -> str:
    """How a process ended: by a signal, where the code is below zero."""
    if exitcode is None or exitcode >= 0:
        return f"died with exit code {exitcode}"
    known = {-signal.SIGKILL: "SIGKILL (out of memory?)", -signal.SIGSEGV: "SIGSEGV (a crash in native code)"}
    return f"was killed by {known.get(exitcode, f'signal {-exitcode}')}"


def _call_and_send(pipe: Connection, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    exit_with_parent()  # a successor of a watcher that was killed must not find its work still under way
    try:
        outcome = function(*arguments)
    except Exception as error:
        outcome = error
    pipe.send(outcome)


def exit_with_parent() -> None:
    """End this process, which `multiprocessing` has started, as soon as its parent has ended."""
    Thread(target=_exit_when_gone, args=(multiprocessing.parent_process(),), daemon=True).start()


def _exit_when_gone(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Where Linux tells a container its quota."""


def available_cores() -> int:
    """Return how many cores each process has of those that share this machine, LOCAL_WORLD_SIZE of them; 1 at least."""
    allowed = min(len(os.sched_getaffinity(0)), _quota())
    return max(1, int(allowed) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def _quota() -> float:
    """How many cores' time this container may take, which limits no affinity."""
    try:
        quota, period = QUOTA.read_text().split()
    except OSError:
        return math.inf
    return math.inf if quota == "max" else math.ceil(int(quota) / int(period))
