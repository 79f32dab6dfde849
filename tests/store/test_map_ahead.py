"""Many small objects at once: in order, in bounded memory, and one that fails ends it."""

import threading
import time

import pytest

from retrain.utils.parallel import ANSWERS_AHEAD, READERS, map_ahead


def test_map_ahead_keeps_the_order_of_keys_at_any_speed() -> None:
    asked = threading.Barrier(READERS)  # passed only once as many wait at once

    def answer(key: int) -> int:
        if key < READERS:
            asked.wait(timeout=60)
            time.sleep((READERS - key) / 1000)
        return -key

    assert list(map_ahead(answer, range(100))) == [-key for key in range(100)]


def test_no_more_keys_are_taken_than_answers_fit_in_memory() -> None:
    keys = iter(range(10 * ANSWERS_AHEAD))
    assert next(map_ahead(lambda key: key, keys)) == 0
    assert next(keys) == ANSWERS_AHEAD


def test_as_many_answers_wait_as_were_asked_for() -> None:
    begun = []
    answers = map_ahead(begun.append, range(100), ahead=3)
    for taken in range(1, 20):
        next(answers)
        assert len(begun) <= taken + 3


def test_the_first_key_that_fails_ends_it() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_ahead(lambda key: 1 / key, [2, 1, 0, 5]))
