"""Preemption: the machine is taken away after a warning (SIGTERM), or a user presses Ctrl-C. The run resumes later."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Preempted(SystemExit):
    """The run was interrupted and its state saved; the same command resumes it. Uncaught, it exits with 75."""

    def __init__(self) -> None:
        super().__init__(os.EX_TEMPFAIL)


def raise_preempted(signum: int, frame: FrameType | None) -> None:
    """Handle a signal by raising `Preempted` at once: every stage can be retried after that."""
    raise Preempted


@contextmanager
def defer_signals() -> Iterator[Callable[[], bool]]:
    """Defer SIGTERM and Ctrl-C inside, yield a function that tells if one came, and raise `Preempted` at the end if so.

    A second Ctrl-C takes effect at once. Works only in the main thread, in which Python runs signal handlers.
    """
    came = False

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    # A process under nohup or in the background ignores some of them already.
    deferred = [each for each, handler in before.items() if handler is not signal.SIG_IGN]
    for each in deferred:
        signal.signal(each, note)
    try:
        yield lambda: came
    finally:
        for each in deferred:
            signal.signal(each, before[each])
    if came:
        raise Preempted
