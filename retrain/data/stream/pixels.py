"""The images of streamed samples: read from cached shards, or from files of decoded pixels."""

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrain.config.frame import Size, image_shape
from retrain.data.images import decode_image
from retrain.data.local_cache import CacheHold
from retrain.data.shards import image_locations
from retrain.data.stream.order import shard_of
from retrain.data.stream.shard_cache import ShardCache, ShardRef
from retrain.errors import DamagedDrop, DropError


class FilePixels:
    """Images uint8 [N, 3, height, width], from several files one after another. Rows index them, as in a tensor.

    The files are opened for each batch. While this object is used, `hold` locks them against removal.
    """

    def __init__(self, paths: Sequence[Path], image_size: Size, hold: CacheHold) -> None:
        self._paths, self._shape, self._hold = paths, image_shape(image_size), hold
        self._ends = torch.tensor([path.stat().st_size // prod(self._shape) for path in paths]).cumsum(0)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return the images of rows, int64 [B], on the CPU: uint8 [B, 3, height, width]."""
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


class _File(NamedTuple):
    """The position of an image's file in its shard, and the image's row in the batch."""

    row: int
    offset: int
    length: int


class ShardPixels:
    """Images of the training samples of all drops, in the order of `shards`. Rows index them, as in a tensor.

    `counts`, int64 [shards], has the shards' numbers of training samples. `offset`, int64, and `length`, int32 [N],
    locate a sample in its shard.
    """

    def __init__(
        self,
        shards: Sequence[ShardRef],
        counts: Tensor,
        offset: Tensor,
        length: Tensor,
        cache: ShardCache,
        image_size: Size,
    ) -> None:
        self.shards, self.counts, self.cache = shards, counts, cache
        self._offset, self._length = offset, length
        self._size, self._shape = image_size, image_shape(image_size)

    @property
    def bytes_each(self) -> float:
        """Return the mean size of an image's file in bytes."""
        return float(self._length.mean(dtype=torch.float64))

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return the images of rows, int64 [B], on the CPU: uint8 [B, 3, height, width]. Fetch missing shards.

        Raises `DamagedDrop` if an image cannot be decoded, or a shard differs from the manifest.
        """
        return self._read(rows.cpu(), self.cache.hold)

    def read_held(self, rows: Tensor) -> Tensor:
        """Return the images of rows, in a process without a store. Its parent process keeps the shards in the cache."""
        return self._read(rows, lambda ref: self.cache.path(ref).open("rb"))

    def _read(self, rows: Tensor, opened: Callable[[ShardRef], BinaryIO]) -> Tensor:
        images = torch.empty(len(rows), *self._shape, dtype=torch.uint8)
        into, files = images.numpy(), defaultdict[int, list[_File]](list)
        of_shard, offsets, lengths = shard_of(rows, self.counts), self._offset[rows], self._length[rows]
        places = zip(of_shard.tolist(), offsets.tolist(), lengths.tolist(), strict=True)
        for row, (number, offset, length) in enumerate(places):
            files[number].append(_File(row, offset, length))
        for number, found in files.items():
            with opened(self.shards[number]) as shard:
                for file in found:
                    into[file.row] = self._decoded(shard, file, self.shards[number])
        return images

    def _decoded(self, shard: BinaryIO, file: _File, ref: ShardRef) -> NDArray[np.uint8]:
        try:
            return decode_image(os.pread(shard.fileno(), file.length, file.offset), self._size)
        except DropError as error:
            where = f"{self.cache.store.url}/{ref.key}"
            key = next(place.key for place in image_locations(shard, where) if place.offset == file.offset)
            raise DamagedDrop(ref.drop, f"{where}: {key}: {error}") from error
