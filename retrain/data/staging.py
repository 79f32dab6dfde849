"""Divide one source into several drops: by classes, or by shares of its samples."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from typing import Literal, Self, TypeVar

from retrain.data.labels import Sample
from retrain.errors import DropError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Staging:
    """The division of a source into parts. `sizes` are numbers of classes, or percentages of the samples.

    `seed` decides which classes or samples are in which part.
    """

    by: Literal["classes", "share"]
    sizes: tuple[int, ...]
    seed: int = 0

    @classmethod
    def parse(cls, by: Literal["classes", "share"], text: str, seed: int = 0) -> Self:
        """Read the sizes from the command line, such as `70+30`. Raises `DropError` for any other text."""
        sizes = tuple(int(size) if size.isascii() and size.isdigit() else 0 for size in text.split("+"))
        if 0 in sizes:
            raise DropError(f"{by}: {text!r} is not a sum of positive whole numbers such as 70+30")
        return cls(by, sizes, seed)


def split_into_parts(samples: Iterable[Sample], staging: Staging) -> tuple[tuple[Sample, ...], ...]:
    """Divide a source's samples at random.

    The same samples and staging give the same parts, each in the order of the source. By classes, a part has all
    samples of its classes in every split. By share, it has its percentage of each split. Raises `DropError` unless the
    sizes add up to the number of classes, or to 100 percent.
    """
    samples = tuple(samples)
    divided = _by_classes(samples, staging) if staging.by == "classes" else _by_share(samples, staging)
    return tuple(tuple(sorted(part, key=lambda sample: sample.sort_key)) for part in divided)


def _by_classes(samples: tuple[Sample, ...], staging: Staging) -> list[list[Sample]]:
    names = {sample.class_name for sample in samples}
    _check_sum(staging, len(names), "the number of classes in the source")
    order = sorted(names, key=lambda name: stable_hash(name, staging.seed))
    chosen = [set(part) for part in _cut(order, accumulate(staging.sizes))]
    return [[sample for sample in samples if sample.class_name in part] for part in chosen]


def _by_share(samples: tuple[Sample, ...], staging: Staging) -> list[list[Sample]]:
    _check_sum(staging, 100, "because the shares are percentages")
    divided: list[list[Sample]] = [[] for _ in staging.sizes]
    for _, group in groupby(samples, key=lambda sample: sample.split):
        order = sorted(group, key=lambda sample: stable_hash(sample.key, staging.seed))
        ends = (len(order) * percent // 100 for percent in accumulate(staging.sizes))
        for part, chosen in zip(divided, _cut(order, ends), strict=True):
            part.extend(chosen)
    return divided


def _check_sum(staging: Staging, expected: int, what: str) -> None:
    if sum(staging.sizes) != expected:
        given = "+".join(map(str, staging.sizes))
        raise DropError(f"{staging.by}: {given} adds up to {sum(staging.sizes)}; it must add up to {expected}, {what}")


def _cut(order: Sequence[Item], ends: Iterable[int]) -> list[Sequence[Item]]:
    return [order[start:end] for start, end in pairwise((0, *ends))]


def stable_hash(name: str, seed: int) -> bytes:
    """Return a sort key for a random order that does not depend on a library's random number generator."""
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()
