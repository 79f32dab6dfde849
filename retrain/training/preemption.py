"""Preemption: the machine is taken away with a warning (SIGTERM), and the run goes on elsewhere."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Preempted(SystemExit):
    """The work so far is saved: run the same again. Left alone, it ends the process with `EX_TEMPFAIL`, 75."""

    def __init__(self) -> None:
        super().__init__(os.EX_TEMPFAIL)


def leave(signum: int, frame: FrameType | None) -> None:
    """Handle a signal by raising `Preempted` wherever the process is: no stage needs more to be retried."""
    raise Preempted


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Only take note of SIGTERM inside, and yield whether it has come; raise `Preempted` at the end if it has.

    Works in the main thread alone, which Python runs signal handlers in.
    """
    came = False

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGTERM, before)
    if came:
        raise Preempted
