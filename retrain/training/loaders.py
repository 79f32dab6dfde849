"""Supply an endless sequence of batches on the device. The recipe draws the samples of each epoch."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from retrain.data.augment import Rows
from retrain.data.samples import Samples, move_to
from retrain.recipe.sampling import Arrangement, draw_epoch, shuffle
from retrain.training.seeds import make_generator


class EpochSampler:
    """A sampler of batches of `batch_size` indices. A batch may contain the end of one epoch and the start of the next.

    Epoch p is drawn by a separate generator with a seed from (seed, p). Therefore the epoch's `number` and the `offset`
    in the epoch determine the position completely. `arrange` changes only the order of an epoch, not its samples.
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
        """Return the samples of the current epoch, int64, in order."""
        drawn = draw_epoch(self.probability, self.size, make_generator(self.seed, "pass", self.number), self.arrange)
        return move_to(drawn, self.device)

    def seek(self, number: int, offset: int) -> None:
        """Go to a position that was read from `number` and `offset` earlier."""
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
    """A position in the sequence of batches: the number of the epoch, and the number of its samples that were used."""

    epoch: int
    offset: int


class Batch(NamedTuple):
    """The data of one iteration, on the device.

    It has the indices of the whole batch, and the images and labels of this process's rows.
    """

    samples: Tensor
    """Indices of the whole batch's samples, int64 [B]."""
    images: Tensor
    """Pixels of this process's rows before augmentation, uint8 [rows, 3, height, width]."""
    labels: Tensor
    """Classes of this process's rows, int64 [rows]."""


class Loader(Protocol):
    """An endless source of batches."""

    sampler: EpochSampler
    """The sampler that draws the batches. It may be ahead of `next`."""

    @property
    def position(self) -> Position:
        """Return the position at which the next batch begins."""

    def seek(self, position: Position) -> None:
        """Go to a position that was read earlier."""

    def next(self) -> Batch:
        """Return the next batch. Raises `DamagedDrop` if one of its images cannot be read."""

    def close(self) -> None:
        """Stop the loader's worker processes, if it has any."""


class InMemoryLoader:
    """A loader of samples in memory. It gathers rows on the device of the pixels."""

    def __init__(self, sampler: EpochSampler, train: Samples, rows: Rows) -> None:
        self.sampler, self.train, self.rows = sampler, train, rows

    @property
    def position(self) -> Position:
        """Return the sampler's position."""
        return Position(self.sampler.number, self.sampler.offset)

    def seek(self, position: Position) -> None:
        """Move the sampler to a position that was read earlier."""
        self.sampler.seek(*position)

    def next(self) -> Batch:
        """Gather the samples of the next batch, and return it."""
        batch = self.sampler.next()
        images = self.train.pixels(batch[self.rows.at])
        batch = move_to(batch, self.train.device)
        return Batch(batch, images, self.train.labels[batch[self.rows.at]])

    def close(self) -> None:
        """Do nothing, because there are no workers."""
