"""Find near-duplicates: images whose hashes share a part, and whose thumbnails hardly differ.

The hash (`SampleTable.likeness`, a dHash of 64 bits) finds candidates among all images. The thumbnails then decide.
Near-duplicates are reported, but stay in their splits. The reason is that two photographs of a camera's burst look as
similar as an image and a copy that was saved again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrain.data.sample_keys import name_in_drop, readable_key
from retrain.data.sample_table import USES, SampleTable
from retrain.utils.text import pluralize

BANDS = 4
"""Number of parts of a hash. Two candidates have at least one equal part."""
MOST_BITS = 10
"""Largest number of different bits in the hashes of two candidates."""
MOST_DISTANCE = 0.1
"""Largest distance between the thumbnails of near-duplicates, chosen on data (docs/evidence/near-duplicates.md)."""
LEAST_CONTRAST = 4.0
"""Smallest standard deviation of the grey values of a compared thumbnail. Other thumbnails show a plain area."""
MOST_BITS_ALONE, MOST_BRIGHTNESS = 3, 16
"""Largest differences of the hashes, in bits, and of the mean grey values (0..255) of near-duplicates without
thumbnails."""
NEIGHBOURS = 32
"""Number of images that each image is compared with. They are the next images, sorted by hash, that share a part of the
hash. The work is therefore proportional to the number of images."""
SMALLEST = 16
"""Smallest length of the shorter side of compared images, in pixels. Most smaller images look alike."""
PLAIN_BITS = 3
"""Smallest number of set bits, and of unset bits, in a compared hash. Other hashes are of plain areas or gradients."""
AT_ONCE = 100_000
"""Number of thumbnail pairs that are compared at once."""


class Likeness(NamedTuple):
    """A sample that looks like another sample."""

    drop: str
    key: str
    split: str
    class_name: str

    def __str__(self) -> str:
        return f"{name_in_drop(readable_key(self.key), self.drop)} ({self.split}, {self.class_name})"


class Alike(NamedTuple):
    """Two samples that look alike. If `leaks`, one of them is held out and the other is not."""

    first: Likeness
    second: Likeness
    distance: float
    """The distance between the samples' thumbnails. 0 if the thumbnails are equal, or if one is missing."""

    @property
    def leaks(self) -> bool:
        """Return whether the model is trained on one of the two samples and measured on the other."""
        return (self.first.split == "train") != (self.second.split == "train")

    def __str__(self) -> str:
        return f"{self.first} looks like {self.second}"


@dataclass(frozen=True, eq=False)
class AlikePairs:
    """P near-duplicates. Pairs of a training and a held-out sample come first, and then the most similar pairs.

    The samples are named when they are read, because frames of a video can form millions of pairs.
    """

    tables: Sequence[tuple[str, SampleTable]]
    places: NDArray[np.int64]
    """int64 [P, 2, 2]: for both samples of each pair, the position of the table, and the row in it."""
    distance: NDArray[np.float32]
    """float32 [P]. See `Alike`."""
    leaks: int
    """Number of pairs of a training and a held-out sample."""

    def __len__(self) -> int:
        return len(self.distance)

    def __iter__(self) -> Iterator[Alike]:
        return iter(self.first(len(self)))

    def first(self, most: int) -> list[Alike]:
        """Return the first pairs, at most this number."""
        found = zip(self.places[:most].tolist(), self.distance[:most].tolist(), strict=True)
        return [Alike(self._name(*first), self._name(*second), far) for (first, second), far in found]

    def _name(self, position: int, row: int) -> Likeness:
        drop_id, table = self.tables[position]
        return Likeness(drop_id, table.keys[row], USES[table.use[row]], table.class_of(row))


def find_alike(tables: Sequence[tuple[str, SampleTable]], since: int = 0) -> AlikePairs:
    """Return the near-duplicates among the used samples of drops.

    At least one sample of each pair is in the drops from position `since` on. Samples with equal content form no pair.
    """
    if not tables:
        return AlikePairs((), np.empty((0, 2, 2), np.int64), np.empty(0, np.float32), 0)
    rows = [
        np.flatnonzero(table.is_used() & (np.minimum(table.width, table.height) >= SMALLEST)) for _, table in tables
    ]

    def column(of: Callable[[SampleTable], NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate([of(table)[used] for (_, table), used in zip(tables, rows, strict=True)])

    drop = np.repeat(np.arange(len(tables)), [len(each) for each in rows])
    hashes, content = column(hash_values), column(lambda table: table.content)
    pairs = candidates(hashes, int(np.searchsorted(drop, since)))
    pairs = pairs[content[pairs[:, 0]] != content[pairs[:, 1]]]
    distance = distances(column(lambda table: table.thumbnail), pairs)
    no_thumbnail = np.isnan(distance)
    brightness = column(lambda table: table.brightness).astype(np.int64)[pairs]
    likely = (differing_bits(hashes, pairs) <= MOST_BITS_ALONE) & (np.ptp(brightness, axis=1) <= MOST_BRIGHTNESS)
    close = np.where(no_thumbnail, likely, distance <= MOST_DISTANCE)
    pairs, distance = pairs[close], np.where(no_thumbnail, np.float32(0), distance)[close]
    is_trained = column(lambda table: table.use) == USES.index("train")
    leaks = is_trained[pairs].sum(1) == 1
    order = np.lexsort((distance, ~leaks))
    places = np.stack((drop, np.concatenate(rows)), 1)
    return AlikePairs(tables, places[pairs[order]], distance[order], int(leaks.sum()))


def hash_values(table: SampleTable) -> NDArray[np.uint64]:
    """Return the hashes of a table's samples as numbers, uint64 [N]."""
    return np.ascontiguousarray(table.likeness).view(">u8").ravel().astype(np.uint64)


def candidates(hashes: NDArray[np.uint64], first: int = 0) -> NDArray[np.int64]:
    """Return the pairs of hashes, uint64 [N], that share a part and differ in `MOST_BITS` bits at most: int64 [P, 2].

    At least one hash of each pair is at position `first` or later. If more than `NEIGHBOURS` images share a part of
    their hash, some pairs among them may be missed.
    """
    set_bits = np.bitwise_count(hashes)
    compared = np.flatnonzero((set_bits >= PLAIN_BITS) & (set_bits <= 64 - PLAIN_BITS))
    found = [np.empty((0, 2), np.int64)]
    for band in range(BANDS):
        part = (hashes[compared] >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.lexsort((hashes[compared], part))
        is_new = compared[order] >= first
        for offset in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
            places = np.flatnonzero(is_new[:-offset] | is_new[offset:])
            ones, others = order[places], order[places + offset]
            same = part[ones] == part[others]
            pairs = compared[np.stack((ones[same], others[same]), 1)]
            found.append(pairs[differing_bits(hashes, pairs) <= MOST_BITS])
    one, other = np.sort(np.concatenate(found), 1).T
    return np.stack(np.divmod(np.unique(one * len(hashes) + other), max(1, len(hashes))), 1)


def differing_bits(hashes: NDArray[np.uint64], pairs: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the number of different bits in the hashes of each pair, int64 [P, 2]: uint8 [P]."""
    bits: NDArray[np.uint8] = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
    return bits


def distances(thumbnails: NDArray[np.uint8], pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the distance between the thumbnails, uint8 [N, 64], of each pair, int64 [P, 2]: float32 [P].

    Each thumbnail is first scaled to mean 0 and deviation 1, so brightness and contrast do not matter. The distance is
    the root mean square of the differences. It is infinite if a thumbnail is plain, and NaN if one is missing (all
    zero).
    """
    used, places = np.unique(pairs, return_inverse=True)
    thumbnails, pairs = thumbnails[used], places.reshape(-1, 2)
    grey = thumbnails.astype(np.float32) - thumbnails.mean(1, dtype=np.float32, keepdims=True)
    deviation = grey.std(1, keepdims=True)
    grey /= np.maximum(deviation, LEAST_CONTRAST)
    found = np.empty(len(pairs), np.float32)
    for first in range(0, len(pairs), AT_ONCE):
        one, other = pairs[first : first + AT_ONCE].T
        found[first : first + AT_ONCE] = np.sqrt(((grey[one] - grey[other]) ** 2).mean(1))
    found[(deviation[pairs, 0] < LEAST_CONTRAST).any(1)] = np.inf
    found[(thumbnails.max(1)[pairs] == 0).any(1)] = np.nan
    return found


def describe_alike(pairs: AlikePairs, most: int) -> Iterator[str]:
    """Yield a sentence for each of the first `most` pairs of a training and a held-out sample.

    Then yield the number of all other pairs.
    """
    leaks = pairs.leaks
    yield from (f"near-duplicates, one of them held out: {pair}" for pair in pairs.first(min(most, leaks)))
    if leaks > most:
        yield f"near-duplicates, one of them held out: {pluralize(leaks - most, 'more pair')}"
    if others := len(pairs) - leaks:
        names = f"`retrain data review` names {'it' if others == 1 else 'them'}"
        yield f"near-duplicates, both in training or both held out: {pluralize(others, 'pair')}; {names}"
