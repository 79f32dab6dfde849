"""Preemption: handle SIGTERM before the machine is taken away, and Ctrl-C of a user. The run resumes later."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from retrain.utils.logs import LOGGER

FIRST = (
    "Ctrl-C: the run ends after this iteration and saves its state; press Ctrl-C again to end it now, without saving"
)
SECOND = "Ctrl-C again: the run ends without saving; the same command resumes it at the last saved state"


class Preempted(SystemExit):
    """The run was interrupted after a checkpoint.

    The same command resumes it. If uncaught, the process exits with 75.
    """

    def __init__(self) -> None:
        super().__init__(os.EX_TEMPFAIL)


def raise_preempted(signum: int, frame: FrameType | None) -> None:
    """Handle a signal by raising `Preempted` immediately. Every stage can be retried afterwards."""
    raise Preempted


@contextmanager
def defer_signals(announce: bool = True) -> Iterator[Callable[[], bool]]:
    """Defer SIGTERM and Ctrl-C within the context, and yield a function that returns whether a signal has arrived.

    Raises `Preempted` at the end if a signal has arrived. A second Ctrl-C takes effect immediately. With `announce`, a
    message explains the effect of Ctrl-C. If several processes share a terminal, only one of them should log it. This
    works only in the main thread, because Python runs signal handlers there.
    """
    has_arrived = False

    def handle_signal(signum: int, frame: FrameType | None) -> None:
        nonlocal has_arrived
        has_arrived = True
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, end_immediately)
            if announce:
                LOGGER.warning(FIRST)

    def end_immediately(signum: int, frame: FrameType | None) -> None:
        handler = before[signal.SIGINT]
        signal.signal(signal.SIGINT, handler)
        if announce:
            LOGGER.warning(SECOND)
        if callable(handler):
            handler(signum, frame)
        else:
            raise KeyboardInterrupt

    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    # A process under nohup or in the background ignores some of these signals already.
    deferred = [each for each, handler in before.items() if handler is not signal.SIG_IGN]
    for each in deferred:
        signal.signal(each, handle_signal)
    try:
        yield lambda: has_arrived
    finally:
        for each in deferred:
            signal.signal(each, before[each])
    if has_arrived:
        raise Preempted
