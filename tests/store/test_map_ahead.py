"""Many small objects are read in parallel, in order and in bounded memory; the first error ends it."""

import threading
import time

import pytest

from retrain.utils.parallel import READERS, RESULTS_AHEAD, map_ahead


def test_map_ahead_keeps_the_order_of_keys_at_any_speed() -> None:
    asked = threading.Barrier(READERS)  # passed only once as many wait at once

    def answer(key: int) -> int:
        if key < READERS:
            asked.wait(timeout=60)
            time.sleep((READERS - key) / 1000)
        return -key

    assert list(map_ahead(answer, range(100))) == [-key for key in range(100)]


def test_map_ahead_takes_only_keys_whose_answers_fit() -> None:
    keys = iter(range(10 * RESULTS_AHEAD))
    assert next(map_ahead(lambda key: key, keys)) == 0
    assert next(keys) == RESULTS_AHEAD


def test_map_ahead_buffers_the_set_number_of_answers() -> None:
    begun: list[int] = []
    answers = map_ahead(begun.append, range(100), ahead=3)
    for taken in range(1, 20):
        next(answers)
        assert len(begun) <= taken + 3


def test_first_key_that_fails_ends_it() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_ahead(lambda key: 1 / key, [2, 1, 0, 5]))
