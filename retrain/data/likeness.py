"""Find near-duplicates: images whose hashes (`ImageFacts.likeness`, a dHash of 64 bits) differ in few bits.

They are reported, and stay where they are: a burst of a camera and a copy saved anew look alike to a hash.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrain.data.sample_table import USES, SampleTable

MOST_BITS = 3
"""Bits in which the hashes of near-duplicates differ at most."""
BANDS = 4
"""Parts of a hash, one more than such bits: at least one part of near-duplicates is equal."""
NEIGHBOURS = 32
"""An image is compared with so many that follow it, sorted by an equal part: the work grows with the images alone."""
MOST_BRIGHTNESS = 16
"""By how much their mean grey values (0..255) differ at most: a hash knows nothing of brightness."""
SMALLEST = 16
"""Pixels of the shorter side from which on images are compared: smaller ones are mostly alike."""
PLAIN_BITS = 3
"""Hashes with fewer bits set, or fewer not set, are of plain areas and gradients: they tell nothing."""


class Likeness(NamedTuple):
    """A sample that looks like another one."""

    drop: str
    key: str
    split: str
    class_name: str

    def __str__(self) -> str:
        return f"{self.key} of drop {self.drop} ({self.split}, {self.class_name})"


class Alike(NamedTuple):
    """Two samples that look alike; one of them is held out if `leaks`."""

    first: Likeness
    second: Likeness
    bits: int
    """In how many bits their hashes differ."""

    @property
    def leaks(self) -> bool:
        """Whether the model is trained on one of them and measured on the other."""
        return (self.first.split == "train") != (self.second.split == "train")

    def __str__(self) -> str:
        return f"{self.first} looks like {self.second}"


def find_alike(tables: Sequence[tuple[str, SampleTable]], since: int = 0) -> list[Alike]:
    """Return the near-duplicates among the used samples of drops: those between train and held out first.

    `since`: only pairs with a sample of the drops from this position on. Copies of one content do not count.
    """
    rows = [
        np.flatnonzero(table.is_used() & (np.minimum(table.width, table.height) >= SMALLEST)) for _, table in tables
    ]
    drop = np.repeat(np.arange(len(tables)), [len(each) for each in rows])
    row = np.concatenate([*rows, np.array([], np.int64)]).astype(np.int64)
    used = list(zip([table for _, table in tables], rows, strict=True))
    hashes = np.concatenate([np.array([], np.uint64), *(hash_values(table)[own] for table, own in used)])
    content = np.concatenate([np.array([], "S16"), *(table.content[own] for table, own in used)])
    brightness = np.concatenate(
        [np.array([], np.int64), *(table.brightness[own].astype(np.int64) for table, own in used)]
    )

    def named(number: int) -> Likeness:
        drop_id, table = tables[drop[number]]
        place = int(row[number])
        return Likeness(drop_id, table.keys[place], USES[table.use[place]], table.class_of(place))

    found = [
        Alike(named(one), named(other), bits)
        for one, other, bits in close_pairs(hashes)
        if max(drop[one], drop[other]) >= since
        and content[one] != content[other]
        and abs(brightness[one] - brightness[other]) <= MOST_BRIGHTNESS
    ]
    return sorted(found, key=lambda pair: (not pair.leaks, pair.bits, pair.first, pair.second))


def hash_values(table: SampleTable) -> NDArray[np.uint64]:
    """Return the hashes of a table's samples as numbers, uint64 [N]."""
    return np.ascontiguousarray(table.likeness).view(">u8").ravel().astype(np.uint64)


def close_pairs(hashes: NDArray[np.uint64]) -> Iterator[tuple[int, int, int]]:
    """Yield the pairs of hashes, uint64 [N], that differ in `MOST_BITS` bits at most, and in how many they do.

    Where more than `NEIGHBOURS` images share a part of their hash, some pairs among them may be missed.
    """
    set_bits = np.bitwise_count(hashes)
    telling = np.flatnonzero((set_bits >= PLAIN_BITS) & (set_bits <= 64 - PLAIN_BITS))
    found = set[tuple[int, int, int]]()
    for band in range(BANDS):
        part = (hashes[telling] >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = telling[np.lexsort((hashes[telling], part))]
        sorted_part = (hashes[order] >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        for offset in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
            bits = np.bitwise_count(hashes[order[offset:]] ^ hashes[order[:-offset]])
            close = (sorted_part[offset:] == sorted_part[:-offset]) & (bits <= MOST_BITS)
            for place in np.flatnonzero(close).tolist():
                one, other = sorted((int(order[place]), int(order[place + offset])))
                found.add((one, other, int(bits[place])))
    yield from sorted(found)


def describe_alike(pairs: Iterable[Alike], most: int) -> Iterator[str]:
    """Yield near-duplicates between train and held out in sentences, `most` of them, and count all others."""
    pairs = list(pairs)
    leaks = [pair for pair in pairs if pair.leaks]
    yield from (f"near-duplicates, one of them held out: {pair}" for pair in leaks[:most])
    if len(leaks) > most:
        yield f"near-duplicates, one of them held out: {len(leaks) - most:,} more pairs"
    if others := len(pairs) - len(leaks):
        yield f"near-duplicates on one side: {others:,} pairs; `retrain data review` names them"
