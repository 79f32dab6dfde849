"""Keep the shards of a batch in the cache while the batch is decoded."""

from typing import BinaryIO

from torch import Tensor

from retrain.data.stream.order import shard_of, shards_by_first_use
from retrain.data.stream.pixels import ShardPixels
from retrain.data.stream.shard_cache import ReadAhead


class HeldShards:
    """The shards of the current batches. They stay in the cache. The shards of later batches are prefetched.

    At most `decoding` batches are decoded at the same time. The caller calls `close` at the end.
    """

    def __init__(self, pixels: ShardPixels, decoding: int) -> None:
        self.pixels, self.decoding = pixels, decoding
        self._ahead = ReadAhead(pixels.cache)
        self._held: dict[int, BinaryIO] = {}
        self._needed: dict[int, int] = {}
        """Number of the batch that needed each shard last."""
        self._places: dict[int, int] = {}
        self._batches = 0

    def follow(self, order: Tensor) -> None:
        """Fetch shards in the order in which these samples, int64 [n], need them. Batches must follow this order."""
        shards = shards_by_first_use(order, self.pixels.counts)
        self._places = {shard: place for place, shard in enumerate(shards)}
        self._ahead.follow([self.pixels.shards[shard] for shard in shards])

    def need(self, rows: Tensor, of_this_epoch: Tensor) -> None:
        """Keep the shards of a batch's rows, int64 [B], open, and close shards that no batch in progress needs.

        `of_this_epoch`, int64, has the batch's samples that belong to the order of `follow`. They determine how far to
        prefetch. Raises `DamagedDrop` if a shard differs from the manifest, and `StoreError` if it cannot be read.
        """
        shards = set(shard_of(rows, self.pixels.counts).tolist())
        self._ahead.reach(max(self._places[shard] for shard in shard_of(of_this_epoch, self.pixels.counts).tolist()))
        self._batches += 1
        self._needed.update(dict.fromkeys(shards, self._batches))
        for shard in [shard for shard in self._held if self._needed[shard] < self._batches - self.decoding]:
            self._held.pop(shard).close()
        for shard in shards - self._held.keys():
            self._held[shard] = self.pixels.cache.hold(self.pixels.shards[shard])

    def close(self) -> None:
        """Close all shards, and stop fetching."""
        self._ahead.close()
        for file in self._held.values():
            file.close()
        self._held.clear()
