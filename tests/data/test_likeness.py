"""Near-duplicates are named, between training and held-out samples above all, and none is moved."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.pictures import encoded
from support.ways_in import open_way_in

from retrain.data.indexing import read_or_make_table
from retrain.data.likeness import MOST_BITS, close_pairs, find_alike


def photograph(number: int, size: int = 64) -> Image.Image:
    """Return smooth pixels that only this number gives."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def files() -> dict[str, bytes]:
    """Return an upload with splits, one of whose test images is a training image saved anew with loss."""
    found = {
        f"{split}/{name}/{number}.png": encoded(photograph(100 * place + number))
        for place, (split, name) in enumerate(itertools.product(("train", "val", "test"), ("cat", "dog")))
        for number in range(5)
    }
    found["test/cat/again.jpg"] = encoded(photograph(3), "JPEG", quality=80)
    return found


@pytest.mark.parametrize("way", ["pack", "upload"])
def test_copy_saved_with_loss_is_named_and_stays(way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    where = open_way_in(way, tmp_path)
    with caplog.at_level("INFO", "retrain"):
        drop = where.take(files())
    told = [one for one in caplog.messages if one.startswith("near-duplicates, one of them held out")]
    assert told == [
        "near-duplicates, one of them held out: cat/3 of drop week-45 (train, cat) looks like cat/again of drop "
        "week-45 (test, cat)"
    ]
    assert drop.samples("test") == 11
    [pair] = find_alike([(drop.id, read_or_make_table(drop, where.store))])
    assert pair.leaks


def test_pairs_are_those_of_a_naive_search() -> None:
    draw = np.random.default_rng(0)
    hashes = draw.integers(0, 2**63, 400, dtype=np.uint64)
    near = hashes[:100] ^ (np.uint64(1) << draw.integers(0, 63, 100, dtype=np.uint64))
    nearer = near[:50] ^ (np.uint64(1) << draw.integers(0, 63, 50, dtype=np.uint64))
    every = np.concatenate([hashes, near, nearer])
    expected = {
        (one, other, bits)
        for one, other in itertools.combinations(range(len(every)), 2)
        if (bits := int(every[one] ^ every[other]).bit_count()) <= MOST_BITS
    }
    assert len(expected) > 150
    assert set(close_pairs(every)) == expected


def test_search_grows_with_the_images_alone() -> None:
    same_part = (np.arange(1, 20_001, dtype=np.uint64) << np.uint64(20)) | np.uint64(0b1011)
    assert sum(1 for _ in close_pairs(same_part)) < 20_000 * 4 * 32
    plain = np.zeros(5000, np.uint64)
    assert list(close_pairs(plain)) == []


def test_only_pairs_of_the_new_drop_are_told(tmp_path: Path) -> None:
    where = open_way_in("pack", tmp_path)
    drop = where.take(files())
    table = read_or_make_table(drop, where.store)
    again = [(drop.id, table), ("other", table)]
    assert all(pair.second.drop == "other" or pair.first.drop == "other" for pair in find_alike(again, since=1))
