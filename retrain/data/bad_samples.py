"""Samples that cannot be used: left out of a drop and named in it, up to the share that the task allows."""

from retrain.errors import DropError
from retrain.records import LeftOut

NAMED = 10
"""As many are named in an error; the manifest names all."""


class BadSamples:
    """The bad samples of one drop, as they are found."""

    def __init__(self, max_share: float) -> None:
        self._max_share = max_share
        self._found: list[LeftOut] = []

    def add(self, place: str, bad: LeftOut) -> None:
        """Leave a sample out. Raises `DropError`, naming its place, if the task allows none."""
        if self._max_share == 0:
            raise DropError(f"{place}: {bad.cause}")
        self._found.append(bad)

    def settle(self, samples: int) -> tuple[LeftOut, ...]:
        """Return what was left out beside so many good samples. Raises `DropError` if that is too many."""
        total = samples + len(self._found)
        if len(self._found) > self._max_share * total:
            named = "; ".join(f"{bad.where}: {bad.key}: {bad.cause}" for bad in self._found[:NAMED])
            raise DropError(
                f"{len(self._found):,} of {total:,} samples are bad, and data.max_bad_share allows "
                f"{self._max_share:.2%}: {named}{'; ...' if len(self._found) > NAMED else ''}"
            )
        return tuple(self._found)
