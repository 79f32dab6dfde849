"""Split data along its first principal component: a shift of domain within one data set (Ash & Adams, figure 8)."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from retrain.data.images import decode_image
from retrain.data.labels import Sample
from retrain.data.source import read_source
from retrain.data.staging import Staging
from retrain.experiments.subsets import is_train, write_folder

SIDE = 16
"""Side in pixels to which images are scaled. Small, because the first component has only coarse light and shade."""


def by_component(source: Path, sizes: str, folder: Path) -> list[Path]:
    """Write a source's samples as one image folder for each size (percent), from low to high scores.

    A sample's score is its coordinate on the first principal component of the training samples. Each split (train, val,
    test) is divided at the percentiles of its own scores. Raises `DropError`.
    """
    samples = read_source(source)
    scores = scores_of(samples)
    ends = [percent / 100 for percent in accumulate(Staging.parse("share", sizes).sizes)]
    parts = [folder / str(number) for number in range(len(ends))]
    for split in {sample.split for sample in samples}:
        inside = torch.tensor([sample.split == split for sample in samples])
        limits = torch.quantile(scores[inside], torch.tensor(ends))
        for number, part in enumerate(parts):
            chosen = inside & (torch.bucketize(scores, limits) == number)
            write_folder([sample for sample, wanted in zip(samples, chosen.tolist(), strict=True) if wanted], part)
    return parts


def scores_of(samples: Sequence[Sample]) -> Tensor:
    """Return each sample's score [N] on the first principal component of the training samples."""
    pixels = torch.stack(
        [torch.as_tensor(decode_image(sample.entry.read(), SIDE)).flatten() for sample in samples]
    ).float()
    return component_scores(pixels, torch.tensor(list(map(is_train, samples))))


def component_scores(pixels: Tensor, training: Tensor) -> Tensor:
    """Return each image's score [N] on the first principal component of the training images. pixels: float [N, D].

    The sign of a component is arbitrary. It is chosen so that light images have the lower scores on every machine.
    """
    centred = pixels - pixels[training].mean(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, _, directions = torch.pca_lowrank(centred[training], q=4, center=False, niter=8)
    first = directions[:, 0]
    return centred @ (-first if first.sum() > 0 else first)
