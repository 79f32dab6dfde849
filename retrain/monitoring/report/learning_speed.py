"""Divide samples into easy, middle and hard samples for the report, as the sampling of the next run does."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrain.config.recipe import EasyHard, Sampling

Group = Literal["easy", "middle", "hard"]
BINS = 20


@dataclass(frozen=True, eq=False)
class Index:
    """The champion's counters of the N samples of its drops (see `recipe.learning_speed.Counters`).

    Each array has the shape [N]. For the next run, all these samples are old.
    """

    run_id: str
    seen: NDArray[np.floating]
    correct: NDArray[np.floating]
    loss: NDArray[np.floating]
    sampling: Sampling
    """The sampling of the task's continuous runs."""

    @property
    def share(self) -> float:
        """Return the share of easy samples, c/2 in the paper. It equals the share of hard samples. 0 without groups."""
        return self.sampling.share if isinstance(self.sampling, EasyHard) else 0.0


class Bar(NamedTuple):
    """The `samples` of a group with low <= learning speed < high. The last bar also contains 1."""

    group: Group
    low: float
    high: float
    samples: int


def speed_groups(index: Index) -> dict[Group, NDArray[np.intp]]:
    """Return the samples of each group.

    The samples are sorted by falling learning speed, then rising mean loss, then sample number (Verwimp et al., section
    3.3). The first floor(share * N) samples are easy, and the last floor(share * N) are hard. The middle group has all
    other samples that were counted.
    """
    known = np.flatnonzero(index.seen > 0)
    seen = index.seen[known].astype(np.float32)
    order = known[np.lexsort((index.loss[known] / seen, -index.correct[known].astype(np.float32) / seen))]
    ends = min(math.floor(Fraction(str(index.share)) * len(index.seen)), len(order) // 2)
    return {"easy": order[:ends], "middle": order[ends : len(order) - ends], "hard": order[len(order) - ends :]}


def speed_bars(index: Index) -> list[Bar]:
    """Return the histogram of learning speeds by group, without its empty bars."""
    edges = np.linspace(0, 1, BINS + 1)
    found = []
    for group, members in speed_groups(index).items():
        speeds = index.correct[members].astype(np.float32) / index.seen[members].astype(np.float32)
        counts, _ = np.histogram(speeds, edges)
        found += [Bar(group, edges[i], edges[i + 1], int(n)) for i, n in enumerate(counts) if n]
    return found
