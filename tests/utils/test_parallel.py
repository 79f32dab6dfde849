"""Maps in threads process every item once, in order, and only a few items ahead."""

from itertools import count

import pytest

from retrain.utils.parallel import CHUNK_SIZE, parallel_map
from retrain.utils.processes import available_cores


def test_results_come_in_the_order_of_the_items() -> None:
    assert list(parallel_map(lambda number: number * number, range(1000))) == [number**2 for number in range(1000)]
    assert list(parallel_map(abs, [])) == []


def test_parallel_map_takes_only_items_it_works_on() -> None:
    taken = count()
    results = parallel_map(abs, taken)
    assert next(results) == 0
    assert next(taken) <= (2 * available_cores() + 1) * CHUNK_SIZE
    results.close()


def test_first_failure_ends_it() -> None:
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
