"""Batches on the device."""

from typing import NamedTuple, Protocol

from torch import Tensor

from retrain.data.augment import Rows
from retrain.data.samples import Samples, moved
from retrain.training.passes import Passes


class Position(NamedTuple):
    """A place in the stream of batches: a pass, and how much of it has gone by."""

    passes: int
    offset: int


class Batch(NamedTuple):
    """What an iteration trains on, on the device: the whole batch's samples, and this process's rows of them."""

    samples: Tensor
    """int64 [B]."""
    images: Tensor
    """uint8 [rows, 3, size, size]."""
    labels: Tensor
    """int64 [rows]."""


class Loader(Protocol):
    """Batches, one after another, without end."""

    passes: Passes
    """Where they come from; it may be ahead."""

    @property
    def position(self) -> Position:
        """Where the next batch begins."""

    def seek(self, position: Position) -> None:
        """Go to a position that was read before."""

    def next(self) -> Batch:
        """Return the next batch. Raises `DamagedDrop` if one of its images cannot be read."""

    def close(self) -> None:
        """End what works for it."""


class Gathering:
    """A loader of samples that are held: rows are gathered where the pixels lie."""

    def __init__(self, passes: Passes, train: Samples, rows: Rows) -> None:
        self.passes, self.train, self.rows = passes, train, rows

    @property
    def position(self) -> Position:
        """That of the passes."""
        return Position(self.passes.number, self.passes.offset)

    def seek(self, position: Position) -> None:
        """Seek in the passes."""
        self.passes.seek(*position)

    def next(self) -> Batch:
        """Gather one."""
        batch = self.passes.next()
        images = self.train.pixels(batch[self.rows.at])
        batch = moved(batch, self.train.device)
        return Batch(batch, images, self.train.labels[batch[self.rows.at]])

    def close(self) -> None:
        """Nothing works for it."""
