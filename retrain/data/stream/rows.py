"""Pixels that lie in files, row by row: reading some of them takes no memory beyond."""

import os
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor


class FileRows:
    """Images uint8 [N, 3, size, size], the files' one after another. Indexed by rows, like a tensor."""

    def __init__(self, paths: Sequence[Path], image_size: int) -> None:
        self._paths, self._shape = paths, (3, image_size, image_size)
        self._ends = torch.tensor([path.stat().st_size // prod(self._shape) for path in paths]).cumsum(0)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Read the images of rows, int64 [B], on the CPU: uint8 [B, 3, size, size]."""
        images = torch.empty(len(rows), *self._shape, dtype=torch.uint8)
        number = torch.bucketize(rows, self._ends, right=True)
        into = images.numpy()
        for one in set(number.tolist()):
            here = (number == one).nonzero().squeeze(1)
            first = int(self._ends[one - 1]) if one else 0
            with self._paths[one].open("rb") as file:
                for place, row in zip(here.tolist(), rows[here].tolist(), strict=True):
                    os.preadv(file.fileno(), [into[place]], (row - first) * into[place].nbytes)
        return images
