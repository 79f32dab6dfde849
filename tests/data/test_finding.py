"""A search finds the samples of all selections in one pass over the drops."""

import time

import pytest
from support.histories import make_drop

from retrain.data.content import ImageFacts
from retrain.data.finding import Search, Selection
from retrain.data.sample_table import SampleRow, SampleTable
from retrain.errors import DropError
from retrain.records import Drop


def searched(drop: str, *samples: tuple[str, int]) -> tuple[Drop, SampleTable]:
    """Return a drop with samples of these keys. The number stands for the content of an image."""
    rows = (
        SampleRow(key, "cat", "train", 0, ImageFacts(number.to_bytes(16, "big"), 8, 8, bytes(72), bytes(64)))
        for key, number in samples
    )
    return make_drop(drop, 1), SampleTable.of(rows)


def by_key(key: str, drop: str = "") -> Selection:
    return Selection("line 2", drop, key, "")


def by_content(number: int, drop: str = "") -> Selection:
    return Selection("line 2", drop, "", number.to_bytes(16, "big").hex())


def test_sample_is_found_by_key_or_content_in_each_drop() -> None:
    drops = [searched("a", ("cat/1", 1), ("cat/2", 2)), searched("b", ("cat/1", 3), ("cat/9", 2))]
    wanted = [by_key("cat/1"), by_key("cat/1", "b"), by_content(2), by_content(2, "a"), by_key("cat/3"), by_content(9)]
    search = Search(wanted, drops)
    assert search.drops == drops
    assert [search.find(one) for one in wanted] == [[(0, 0), (1, 0)], [(1, 0)], [(0, 1), (1, 1)], [(0, 1)], [], []]


def test_path_of_an_image_means_its_key_unless_it_is_a_key() -> None:
    wanted = [by_key("owl eye/1.png"), by_key("owl%20eye/1")]
    for key in ("owl%20eye/1", "owl eye/1.png"):
        search = Search(wanted[:1], [searched("a", ("cat/1", 1), (key, 2))])
        assert search.find(wanted[0]) == [(0, 1)]
    assert Search(wanted, [searched("a", ("owl%20eye/1", 2))]).find(wanted[1]) == [(0, 0)]


@pytest.mark.parametrize("text", ["xyz", "00", "0" * 32])
def test_text_that_is_no_digest_is_refused(text: str) -> None:
    """Bad samples have the digest zero, so zeros would select all of them."""
    with pytest.raises(DropError, match=f"line 2: '{text}' is not a content digest in hex"):
        Search([Selection("line 2", "", "", text)], [])


def test_many_samples_are_found_in_many_drops_in_seconds() -> None:
    drops = [searched(f"d-{drop}", *((f"{drop}/{n}", drop * 40 + n + 1) for n in range(40))) for drop in range(500)]
    wanted = [by_content(number + 1) for number in range(20_000)]
    before = time.process_time()
    search = Search(wanted, drops)
    assert [search.find(one) for one in wanted] == [[divmod(number, 40)] for number in range(20_000)]
    assert time.process_time() - before < 2
