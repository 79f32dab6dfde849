"""Batches on the device: an endless stream of them, one thinned epoch after another."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from retrain.data.augment import Rows
from retrain.data.samples import Samples, move_to
from retrain.recipe.sampling import Arrangement, draw_pass, shuffle
from retrain.training.seeds import make_generator


class EpochSampler:
    """Batches of `batch_size` sample indices; a batch may span the end of one pass and the start of the next.

    Pass p is drawn by a generator of its own, seeded from (seed, p), so (`number`, `offset`) is the whole position.
    How a pass is arranged does not change which samples it holds.
    """

    def __init__(
        self,
        probability: Tensor | None,
        size: int,
        batch_size: int,
        seed: int,
        device: torch.device,
        arrange: Arrangement = shuffle,
    ) -> None:
        self.probability, self.size, self.arrange = probability, size, arrange
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.number, self.offset = 0, 0
        self.order = self._draw()

    def _draw(self) -> Tensor:
        """Return the samples of the pass, int64, in its order."""
        drawn = draw_pass(self.probability, self.size, make_generator(self.seed, "pass", self.number), self.arrange)
        return move_to(drawn, self.device)

    def seek(self, number: int, offset: int) -> None:
        """Go to a position that was read from `number` and `offset` before."""
        self.number, self.offset = number, offset
        self.order = self._draw()

    def next(self) -> Tensor:
        """Return the next batch: int64 [batch_size] on the device."""
        batch = self.order[self.offset : self.offset + self.batch_size]
        self.offset += len(batch)
        while len(batch) < self.batch_size:
            self.number, self.offset = self.number + 1, 0
            self.order = self._draw()
            rest = self.order[: self.batch_size - len(batch)]
            self.offset = len(rest)
            batch = torch.cat([batch, rest])
        return batch


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

    passes: EpochSampler
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


class InMemoryLoader:
    """A loader of samples that are held: rows are gathered where the pixels lie."""

    def __init__(self, passes: EpochSampler, train: Samples, rows: Rows) -> None:
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
        batch = move_to(batch, self.train.device)
        return Batch(batch, images, self.train.labels[batch[self.rows.at]])

    def close(self) -> None:
        """Nothing works for it."""
