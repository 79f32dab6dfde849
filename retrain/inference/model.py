"""A trained classifier that predicts the classes of images."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from retrain.config.frame import image_shape
from retrain.errors import UserError
from retrain.inference.preprocess import ImageInput, Preprocess
from retrain.records import Plan
from retrain.utils.parallel import in_chunks, parallel_map

BATCH = 128
"""Images in a forward pass."""


class Ranked(NamedTuple):
    """A class and its predicted probability."""

    label: str
    probability: float


@dataclass(frozen=True)
class Predictions:
    """A model's predictions for N images, in their order."""

    classes: tuple[str, ...]
    """Class k of the logits is `classes[k]`."""
    logits: Tensor
    """float32 [N, K] on the CPU."""

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def probabilities(self) -> Tensor:
        """Return the softmax of the logits, float32 [N, K]."""
        return self.logits.softmax(1)

    @property
    def labels(self) -> list[str]:
        """Return the most likely class of each image."""
        return [self.classes[index] for index in self.logits.argmax(1).tolist()]

    def top(self, count: int = 5) -> list[list[Ranked]]:
        """Return the `count` most likely classes of each image, most likely first."""
        values, indices = self.probabilities.topk(min(count, len(self.classes)), dim=1)
        return [
            [Ranked(self.classes[index], value) for index, value in zip(*row, strict=True)]
            for row in zip(indices.tolist(), values.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class Model:
    """A run's network in evaluation mode, with its classes and its preprocessing."""

    plan: Plan
    """Everything that determined the run."""
    network: nn.Module
    """[N, 3, H, W] normalized images -> [N, K] logits."""
    device: torch.device
    preprocess: Preprocess
    """`preprocess(image)` returns the network's input for one image."""

    @property
    def run_id(self) -> str:
        """Return the id of the run that trained the model."""
        return self.plan.run_id

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the model's classes in the order of the logits."""
        return self.plan.dataset.classes

    def predict(self, images: Iterable[ImageInput] | Tensor, batch_size: int = BATCH) -> Predictions:
        """Predict the classes of images.

        `images` are paths, bytes of image files or Pillow images. They can also be a tensor [N, 3, H, W] of the model's
        image size, with pixels from 0 to 255 (uint8) or outputs of `preprocess` (float). Float pixels from 0 to 1 are
        neither, and give wrong predictions. Raises `ImageError` for the first image that cannot be read, and
        `UserError` if the tensor has another shape.
        """
        if isinstance(images, Tensor):
            self._check_shape(images)
            return self.predict_batches(torch.split(images, batch_size))
        if isinstance(images, ImageInput):
            raise TypeError("predict takes a list of images, not one: pass [image]")
        return self.predict_batches(self._decoded_batches(images, batch_size))

    def predict_batches(self, batches: Iterable[Tensor]) -> Predictions:
        """Predict the classes of images in batches, each a tensor [N, 3, H, W] as in `predict`."""
        logits = [self._logits(batch) for batch in batches]
        return Predictions(self.classes, torch.cat(logits) if logits else torch.empty(0, len(self.classes)))

    def _check_shape(self, images: Tensor) -> None:
        expected = image_shape(self.plan.task.data.frame)
        if images.shape[1:] != expected:
            sizes = ", ".join(["N", *map(str, expected)])
            raise UserError(
                f"a tensor of shape {list(images.shape)} does not fit: model {self.run_id} expects [{sizes}]"
            )

    def _decoded_batches(self, images: Iterable[ImageInput], batch_size: int) -> Iterator[Tensor]:
        for batch in in_chunks(parallel_map(self.preprocess.decode, images), batch_size):
            yield torch.from_numpy(np.stack(batch))

    @torch.inference_mode()
    def _logits(self, images: Tensor) -> Tensor:
        """Return the logits of one batch of pixels or normalized images, float32 [N, K] on the CPU."""
        images = images.to(self.device)
        inputs = images.float() if images.is_floating_point() else self.preprocess.normalize(images)
        logits: Tensor = self.network(inputs)
        return logits.float().cpu()
