"""Shards fetched into the cache before they are needed, over several connections at once."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from retrain.data.stream.shard_cache import Ref, ShardCache

AHEAD = 4
"""Shards fetched at once, beyond the furthest that is needed."""


class ReadAhead:
    """Close it, or leave it as a context manager: what has not begun is not fetched any more.

    What goes wrong here goes wrong again, and is told, where the shard is then held.
    """

    def __init__(self, cache: ShardCache) -> None:
        self.cache = cache
        self._threads = ThreadPoolExecutor(AHEAD, "read-ahead")
        self._route: Sequence[Ref] = ()
        self._begun = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what has begun."""
        self._threads.shutdown(cancel_futures=True)

    def follow(self, route: Sequence[Ref]) -> None:
        """From here on, shards are needed in this order."""
        self._route, self._begun = route, 0

    def reach(self, position: int) -> None:
        """Fetch the shards of the route up to a position that is needed now, and `AHEAD` more."""
        until = min(position + 1 + AHEAD, len(self._route))
        for ref in self._route[self._begun : until]:
            self._threads.submit(self.cache.fetch, ref)
        self._begun = max(self._begun, until)
