"""Where a training's time goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from retrain.training.progress import Progress


class Clock:
    """Adds wall time to a training's progress: all of it, and the part spent aside from iterations."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._last = self._saved = time.monotonic()

    def tick(self) -> float:
        """Bring the total up to date; return the seconds since the last tick."""
        now = time.monotonic()
        passed, self._last = now - self._last, now
        self.progress.seconds += passed
        return passed

    @contextmanager
    def aside(self, phase: Literal["evaluation", "saving"]) -> Iterator[None]:
        """Count what happens inside as evaluation or saving."""
        self.tick()
        try:
            yield
        finally:
            passed = self.tick()
            if phase == "evaluation":
                self.progress.evaluation_seconds += passed
            else:
                self.progress.saving_seconds += passed

    def due(self, seconds: float) -> bool:
        """Say whether this much time has passed since it last said so."""
        now = time.monotonic()
        if now - self._saved < seconds:
            return False
        self._saved = now
        return True
