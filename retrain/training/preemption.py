"""Preemption: the machine is taken away with a warning (SIGTERM), or wanted by hand (Ctrl-C); the run goes on later."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Preempted(SystemExit):
    """The work so far is saved: run the same again. Left alone, it ends the process with `EX_TEMPFAIL`, 75."""

    def __init__(self) -> None:
        super().__init__(os.EX_TEMPFAIL)


def raise_preempted(signum: int, frame: FrameType | None) -> None:
    """Handle a signal by raising `Preempted` wherever the process is: no stage needs more to be retried."""
    raise Preempted


@contextmanager
def defer_signals() -> Iterator[Callable[[], bool]]:
    """Only take note of SIGTERM and Ctrl-C inside, and yield whether one has come; raise `Preempted` at the end if so.

    A second Ctrl-C is obeyed at once. Works in the main thread alone, which Python runs signal handlers in.
    """
    came = False

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    heard = [each for each, handler in before.items() if handler is not signal.SIG_IGN]  # by nohup, or in background
    for each in heard:
        signal.signal(each, note)
    try:
        yield lambda: came
    finally:
        for each in heard:
            signal.signal(each, before[each])
    if came:
        raise Preempted
