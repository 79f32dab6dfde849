"""Work in a process of its own: what needs torch, kfp or hostile bytes must make no server grow, hang or die."""

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from retrain.errors import UserError
from retrain.orphans import leave_with_parent

Outcome = TypeVar("Outcome")


class Died(UserError):
    """The process died, or had to be killed."""


def apart(seconds: float, function: Callable[..., Outcome], *arguments: Any) -> Outcome:
    """Return what a function returns, or raise what it raises, from a fresh process.

    Raises `Died` if that process dies, or is not done after `seconds`: then it is killed.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, function, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(seconds):
            raise Died(f"{function.__name__.strip('_')}: not done after {seconds:.0f} s")
        outcome = ours.recv()
    except EOFError:
        process.join()
        raise Died(f"{function.__name__.strip('_')}: its process {_how(process.exitcode)}") from None
    finally:
        process.kill()
        process.join()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome  # type: ignore[no-any-return]  # a pipe carries anything


def _how(exitcode: int | None) -> str:
    """How a process ended: by a signal, where the code is below zero."""
    if exitcode is None or exitcode >= 0:
        return f"died with exit code {exitcode}"
    known = {-signal.SIGKILL: "SIGKILL (out of memory?)", -signal.SIGSEGV: "SIGSEGV (a crash in native code)"}
    return f"was killed by {known.get(exitcode, f'signal {-exitcode}')}"


def _work(pipe: Connection, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    leave_with_parent()  # a successor of a watcher that was killed must not find its work still under way
    try:
        outcome = function(*arguments)
    except Exception as error:
        outcome = error
    pipe.send(outcome)
