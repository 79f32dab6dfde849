"""Learning speed: the share of epochs in which a sample was classified correctly (Verwimp et al., eq. 6).

It is counted from the training forward pass, which is free: under augmentation and with the weights of the moment,
rather than by an evaluation after each epoch, unless a task asks for that (`training.learning_speed: exact`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

STORED_LIMIT = 2048.0
"""float16 holds every integer up to here."""


@dataclass(frozen=True, eq=False)
class Counters:
    """The index over N samples: three float32 tensors [N] on one device. Counts are exact up to 2^24."""

    seen: Tensor
    """Times that a sample was trained on."""
    correct: Tensor
    """Times that it was then classified correctly."""
    loss: Tensor
    """Sum of its losses."""

    @classmethod
    def zeros(cls, n: int, device: torch.device | str = "cpu") -> "Counters":
        """Counters of n samples that were never seen."""
        return cls(*torch.zeros(3, n, device=device).unbind())

    @torch.no_grad()
    def count(self, indices: Tensor, correct: Tensor, loss: Tensor) -> None:
        """Add one batch, in place: indices [B], int64; correct [B], bool; loss [B]; all on the counters' device.

        An index may repeat within the batch. Nothing is copied to the host.
        """
        self.seen.index_add_(0, indices, torch.ones_like(indices, dtype=self.seen.dtype))
        self.correct.index_add_(0, indices, correct.to(self.correct.dtype))
        self.loss.index_add_(0, indices, loss.to(self.loss.dtype))


def learning_speed(counters: Counters) -> Tensor:
    """Return correct / seen [N], in [0, 1]; nan where a sample was never seen."""
    return counters.correct / counters.seen


def mean_loss(counters: Counters) -> Tensor:
    """Return loss / seen [N]; nan where a sample was never seen."""
    return counters.loss / counters.seen


def joint_shares(before: Tensor, after: Tensor, bins: int) -> Tensor:
    """Return the shares [bins, bins] of samples by learning speed before (rows) and after (columns), slow ones first.

    before, after: [N], in [0, 1]; a sample that is nan in one of them is left out. The shares sum to 1.
    """
    known = ~(before.isnan() | after.isnan())
    row, column = ((speed[known] * bins).long().clamp(max=bins - 1) for speed in (before, after))
    counts = torch.bincount(row * bins + column, minlength=bins**2)
    return counts.view(bins, bins) / known.sum()


def add(parent: Counters, own: Counters, decay: float) -> Counters:
    """Return decay · parent + own: a run that stops early has few epochs, so it keeps a part of its parent's."""
    return Counters(
        seen=decay * parent.seen + own.seen,
        correct=decay * parent.correct + own.correct,
        loss=decay * parent.loss + own.loss,
    )


def merge(ranks: Sequence[Counters]) -> Counters:
    """Return the sum over ranks, each having counted its own part of every pass.

    Counts are exact; losses are summed in float64 in the order of the ranks and rounded once.
    """
    return Counters(
        seen=_sum([rank.seen for rank in ranks]),
        correct=_sum([rank.correct for rank in ranks]),
        loss=_sum([rank.loss for rank in ranks]),
    )


def concatenate(parts: Sequence[Counters]) -> Counters:
    """Return one index over the samples of all parts, in order."""
    return Counters(
        seen=torch.cat([part.seen for part in parts]),
        correct=torch.cat([part.correct for part in parts]),
        loss=torch.cat([part.loss for part in parts]),
    )


def split(counters: Counters, sizes: Sequence[int]) -> list[Counters]:
    """Undo `concatenate`: views of consecutive parts, whose sizes sum to N."""
    columns = (column.split_with_sizes(list(sizes)) for column in (counters.seen, counters.correct, counters.loss))
    return [Counters(*part) for part in zip(*columns, strict=True)]


def to_tensors(counters: Counters) -> dict[str, Tensor]:
    """Return the counters in 8 bytes a sample, as a finished run keeps them: float16, float16 and float32.

    Whole counts up to 2048 are exact; others, such as a decayed parent's, are rounded by at most 1 part in 2048. A
    sample seen more often is stored as if seen 2048 times, at the same learning speed and mean loss.
    """
    excess = (counters.seen / STORED_LIMIT).clamp(min=1)
    return {
        "seen": (counters.seen / excess).half(),
        "correct": (counters.correct / excess).half(),
        "loss": counters.loss / excess,
    }


def from_tensors(tensors: Mapping[str, Tensor]) -> Counters:
    """Undo `to_tensors`."""
    return Counters(**{name: tensors[name].float() for name in ("seen", "correct", "loss")})


def _sum(columns: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, (column.double() for column in columns)).float()
