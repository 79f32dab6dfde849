"""The drift of waiting drops: how far their images are from a champion's held-out images, in the champion's features.

After a promotion, the drops that still wait are measured again, because the new champion has other features."""

import logging

from retrain.errors import StoreError
from retrain.records import Drift
from retrain.store.base import ObjectStore, read_record
from retrain.store.keys import TaskKeys
from retrain.utils.parallel import map_ahead

log = logging.getLogger("retrain")


class Drifts:
    """The measured drifts of a task's drops."""

    def __init__(self, objects: ObjectStore, keys: TaskKeys) -> None:
        self._objects, self._keys = objects, keys

    def keep(self, drift: Drift) -> None:
        """Write a measurement. A repeated measurement has the same result, so it may replace the first."""
        self._objects.write(self._keys.drift(drift.run_id, drift.drop), drift.to_bytes())

    def of(self, champion: str | None) -> dict[str, Drift]:
        """Return the drifts measured with a champion's features, by drop. Empty without a champion.

        A damaged record is logged and left out, because no run depends on it.
        """
        if champion is None:
            return {}
        keys = [entry.key for entry in self._objects.list(self._keys.drifts(champion))]
        return {drift.drop: drift for drift in filter(None, map_ahead(self._read, keys))}

    def _read(self, key: str) -> Drift | None:
        try:
            return read_record(self._objects, key, Drift)[0]
        except StoreError as error:
            log.warning("%s", error)
            return None
