"""SIGTERM ends a training immediately, or after the step or write in progress."""

import os
import signal

import pytest

from retrain.training.preemption import FIRST, SECOND, Preempted, defer_signals, raise_preempted


def send_signal(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def test_preemption_exits_75_and_records_no_error() -> None:
    assert Preempted().code == 75
    assert not issubclass(Preempted, Exception)


def interrupted(reached: list[str]) -> None:
    """Receive SIGTERM twice, and note that the block runs to its end."""
    with defer_signals() as leaving:
        assert not leaving()
        send_signal()
        assert leaving()
        send_signal()
        reached.append("end")


def interrupted_by_hand(reached: list[str]) -> None:
    """Receive SIGINT twice, and note how far the block runs."""
    with defer_signals() as leaving:
        send_signal(signal.SIGINT)
        assert leaving()
        reached.append("noted")
        send_signal(signal.SIGINT)
        reached.append("not obeyed")


def failing() -> None:
    with defer_signals():
        send_signal()
        raise ValueError("mine")


def test_deferred_signal_takes_effect_at_the_end_of_the_block() -> None:
    reached: list[str] = []
    with pytest.raises(Preempted):
        interrupted(reached)
    assert reached == ["end"]


def test_ctrl_c_is_deferred_once_and_obeyed_the_second_time(caplog: pytest.LogCaptureFixture) -> None:
    before, reached = signal.getsignal(signal.SIGINT), list[str]()
    with pytest.raises(KeyboardInterrupt):
        interrupted_by_hand(reached)
    assert reached == ["noted"]
    assert signal.getsignal(signal.SIGINT) is before
    assert caplog.messages == [FIRST, SECOND]


def test_ignored_ctrl_c_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with defer_signals() as leaving:
            send_signal(signal.SIGINT)
            assert not leaving()
    finally:
        signal.signal(signal.SIGINT, before)


def test_deferred_signals_restore_the_former_handler() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with defer_signals() as leaving:
        assert signal.getsignal(signal.SIGTERM) is not before
    assert not leaving()
    assert signal.getsignal(signal.SIGTERM) is before


def test_error_inside_is_not_hidden_by_the_signal() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="mine"):
        failing()
    assert signal.getsignal(signal.SIGTERM) is before


def test_undeferred_signal_ends_the_training_immediately() -> None:
    before = signal.signal(signal.SIGTERM, raise_preempted)
    try:
        with pytest.raises(Preempted):
            send_signal()
    finally:
        signal.signal(signal.SIGTERM, before)
