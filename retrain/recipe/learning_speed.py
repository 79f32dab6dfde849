"""Learning speed: the share of epochs in which a sample was classified correctly (Verwimp et al., eq. 6).

It is counted in the forward pass of training, so it takes no extra time. The images are therefore augmented, and the
weights change during the epoch. The setting `training.learning_speed: exact` evaluates after each epoch instead.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 1 << 16
"""Samples in a block, small enough for the processor's cache."""

STORED_DTYPE = torch.float16
"""Type of the counts of a finished run."""

STORED_LIMIT = 2048.0
"""Largest number up to which float16 can represent every integer."""


@dataclass(frozen=True, eq=False)
class Counters:
    """The learning-speed index over N samples: three tensors [N] on one device, 8 bytes a sample.

    During a run the counts are int16, or int32 if a sample may be seen more than 32,767 times. After a parent's counts
    are added they are float16.
    """

    seen: Tensor
    """Number of times that a sample was trained on."""
    correct: Tensor
    """Number of times that it was classified correctly when it was trained on."""
    loss: Tensor
    """Sum of its losses, float32."""

    @classmethod
    def zeros(cls, n: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.int16) -> "Counters":
        """Return counters of n samples that were never seen."""
        seen, correct = torch.zeros(2, n, dtype=dtype, device=device)
        return cls(seen, correct, torch.zeros(n, device=device))

    @torch.no_grad()
    def count(self, indices: Tensor, correct: Tensor, loss: Tensor) -> None:
        """Add one batch in place: indices [B], int64; correct [B], bool; loss [B]. All are on the counters' device.

        An index may occur several times in the batch. Nothing is copied to the host.
        """
        self.seen.index_add_(0, indices, torch.ones_like(indices, dtype=self.seen.dtype))
        self.correct.index_add_(0, indices, correct.to(self.correct.dtype))
        self.loss.index_add_(0, indices, loss.to(self.loss.dtype))

    def copy(self, other: "Counters") -> None:
        """Copy the values of other counters, in place."""
        self.seen.copy_(other.seen)
        self.correct.copy_(other.correct)
        self.loss.copy_(other.loss)


def learning_speed(counters: Counters) -> Tensor:
    """Return correct / seen [N], in [0, 1]. It is nan for a sample that was never seen."""
    return counters.correct.float() / counters.seen.float()


def mean_loss(counters: Counters) -> Tensor:
    """Return loss / seen [N]. It is nan for a sample that was never seen."""
    return counters.loss / counters.seen.float()


def difficulty(counters: Counters) -> Tensor:
    """Return an integer for each sample, int64 [N]. A larger integer means a more difficult sample.

    It rises as the learning speed falls. For equal speeds it rises with the mean loss. The high bits are the inverted
    speed, and the low bits are the loss. This works because the bits of non-negative floats sort like the floats.
    """
    keys = torch.empty(len(counters.seen), dtype=torch.int64)
    for out, (seen, correct, loss) in zip(torch.split(keys, BLOCK), _blocks(counters), strict=True):
        speed, mean = (column.nan_to_num().abs().view(torch.int32).long() for column in (correct / seen, loss / seen))
        out.copy_(((2**31 - 1 - speed) << 32) + mean)
    return keys


def joint_shares(before: Tensor, after: Tensor, bins: int) -> Tensor:
    """Return the joint distribution [bins, bins] of two learning speeds of each sample. Low speeds come first.

    before (rows), after (columns): [N], in [0, 1]. A sample that is nan in one of them is left out. The shares sum to
    1.
    """
    known = ~(before.isnan() | after.isnan())
    row, column = ((speed[known] * bins).long().clamp(max=bins - 1) for speed in (before, after))
    counts = torch.bincount(row * bins + column, minlength=bins**2)
    return counts.view(bins, bins) / known.sum()


def add_decayed(parent: Counters, own: Counters, decay: float) -> Counters:
    """Return decay · parent + own, in the data types of a stored index.

    A run that stops early has few epochs, so it also needs the older counts.
    """
    pairs = zip(_blocks(parent), _blocks(own), strict=True)
    return concatenate([_to_stored(*(decay * old + new for old, new in zip(*pair, strict=True))) for pair in pairs])


def concatenate(parts: Sequence[Counters]) -> Counters:
    """Return the counters over the samples of all parts, in order."""
    return Counters(
        seen=torch.cat([part.seen for part in parts]),
        correct=torch.cat([part.correct for part in parts]),
        loss=torch.cat([part.loss for part in parts]),
    )


def split(counters: Counters, sizes: Sequence[int]) -> list[Counters]:
    """Undo `concatenate`: return views of consecutive parts with these sizes. The sizes sum to N."""
    columns = (column.split_with_sizes(list(sizes)) for column in (counters.seen, counters.correct, counters.loss))
    return [Counters(*part) for part in zip(*columns, strict=True)]


def to_tensors(counters: Counters) -> dict[str, Tensor]:
    """Return the counters in 8 bytes a sample, as a finished run stores them: float16, float16 and float32.

    Integer counts up to 2048 are exact. Other counts, such as a decayed parent's, are rounded by at most 1 part in
    2048. A sample that was seen more often is stored as if it was seen 2048 times, with the same learning speed and
    mean loss.
    """
    kept = concatenate([_to_stored(*block) for block in _blocks(counters)])
    return {"seen": kept.seen, "correct": kept.correct, "loss": kept.loss}


def from_tensors(tensors: Mapping[str, Tensor]) -> Counters:
    """Return the counters that `to_tensors` stored."""
    return Counters(**{name: tensors[name] for name in ("seen", "correct", "loss")})


def _blocks(counters: Counters) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield blocks of seen, correct and loss as float32 on the CPU. Memory does not grow with the number of samples."""
    columns = (torch.split(column, BLOCK) for column in (counters.seen, counters.correct, counters.loss))
    for seen, correct, loss in zip(*columns, strict=True):
        yield seen.cpu().float(), correct.cpu().float(), loss.cpu()


def _to_stored(seen: Tensor, correct: Tensor, loss: Tensor) -> Counters:
    excess = (seen / STORED_LIMIT).clamp(min=1)
    return Counters((seen / excess).half(), (correct / excess).half(), loss / excess)
