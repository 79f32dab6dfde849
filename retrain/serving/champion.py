"""Hold the champion's model, and replace it after a promotion while requests are answered."""

import logging
from threading import Event, Thread

from retrain.errors import UserError
from retrain.inference.loading import Source, champion_of, load_model
from retrain.inference.model import Model
from retrain.serving.counts import Counts

log = logging.getLogger("retrain")

STOP_SECONDS = 5
"""Longest time in seconds that `stop` waits for a check in progress. A store may not answer for minutes."""


class FollowedChampion:
    """Holds the champion's model and checks for a new champion periodically, in a separate thread.

    A request keeps the model that it began with. The next model is loaded while the current one is served, and replaces
    it in one assignment, so no request waits. If the store or the new model cannot be read, the old one stays.
    """

    def __init__(self, source: Source, device: str, counts: Counts) -> None:
        """Load the champion. Raises `UserError` if there is none, or if its model cannot be loaded."""
        self._source, self._device, self._counts = source, device, counts
        self._stop = Event()
        self.model: Model = load_model(source, None, device)
        counts.loaded(self.model.run_id)

    def refresh(self) -> bool:
        """Load the champion if it has changed, and return whether it has. Raises `UserError`."""
        run_id = champion_of(self._source.store)
        if run_id == self.model.run_id:
            return False
        self.model = load_model(self._source, run_id, self._device)
        self._counts.loaded(run_id)
        log.info("%s: serving %s", self._source.store.task, run_id)
        return True

    def start(self, every: float) -> None:
        """Check for a new champion every `every` seconds until `stop`."""
        self._thread = Thread(target=self._poll, args=(every,), daemon=True, name="champion")
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread. If the store does not answer, the thread is left to the end of the process."""
        self._stop.set()
        self._thread.join(STOP_SECONDS)

    def _poll(self, every: float) -> None:
        while not self._stop.wait(every):
            try:
                self.refresh()
            except Exception as error:  # whatever a network's factory raises, the next check must follow
                self._counts.failed_to_load()
                log.warning(
                    "%s: the new champion cannot be loaded, still serving %s: %s",
                    self._source.store.task,
                    self.model.run_id,
                    error if isinstance(error, UserError) else f"{type(error).__name__}: {error}",
                )
