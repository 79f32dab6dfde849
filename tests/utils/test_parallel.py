"""Maps in threads keep the order, work only a few items ahead, and end with the first error."""

import threading
import time
from itertools import count

import pytest

from retrain.utils.parallel import CHUNK_SIZE, READERS, RESULTS_AHEAD, map_ahead, parallel_map
from retrain.utils.processes import available_cores


def test_parallel_map_keeps_the_order_of_items() -> None:
    assert list(parallel_map(lambda number: number * number, range(1000))) == [number**2 for number in range(1000)]
    assert list(parallel_map(abs, [])) == []


def test_parallel_map_takes_only_a_few_items_ahead() -> None:
    taken = count()
    results = parallel_map(abs, taken)
    assert next(results) == 0
    assert next(taken) <= (2 * available_cores() + 1) * CHUNK_SIZE
    results.close()


def test_parallel_map_ends_at_its_first_error() -> None:
    def picky(number: int) -> int:
        if number >= 100:
            raise ValueError(f"not {number}")
        return number

    done: list[int] = []
    with pytest.raises(ValueError, match="not 100"):
        done.extend(parallel_map(picky, range(1000)))
    results = parallel_map(picky, range(1000))
    assert [next(results) for _ in range(96)] == list(range(96))
    with pytest.raises(ValueError, match="not 100"):
        next(results)


def test_map_ahead_keeps_the_order_of_keys_at_any_speed() -> None:
    asked = threading.Barrier(READERS)  # passed only when this number of threads wait

    def answer(key: int) -> int:
        if key < READERS:
            asked.wait(timeout=60)
            time.sleep((READERS - key) / 1000)
        return -key

    assert list(map_ahead(answer, range(100))) == [-key for key in range(100)]


def test_map_ahead_takes_a_limited_number_of_keys() -> None:
    keys = iter(range(10 * RESULTS_AHEAD))
    assert next(map_ahead(lambda key: key, keys)) == 0
    assert next(keys) == RESULTS_AHEAD


def test_map_ahead_buffers_the_set_number_of_answers() -> None:
    begun: list[int] = []
    answers = map_ahead(begun.append, range(100), ahead=3)
    for taken in range(1, 20):
        next(answers)
        assert len(begun) <= taken + 3


def test_map_ahead_ends_at_its_first_error() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_ahead(lambda key: 1 / key, [2, 1, 0, 5]))
