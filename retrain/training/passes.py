"""An endless stream of batches, one thinned pass over the data after another."""

import torch
from torch import Tensor

from retrain.data.samples import moved
from retrain.recipe.arranging import Arrange, shuffled
from retrain.recipe.sampling import draw_pass
from retrain.training.seeds import generator


class Passes:
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
        arrange: Arrange = shuffled,
    ) -> None:
        self.probability, self.size, self.arrange = probability, size, arrange
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.number, self.offset = 0, 0
        self.order = self._draw()

    def _draw(self) -> Tensor:
        """Return the samples of the pass, int64, in its order."""
        drawn = draw_pass(self.probability, self.size, generator(self.seed, "pass", self.number), self.arrange)
        return moved(drawn, self.device)

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
