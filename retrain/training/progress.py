"""The progress of a training, the time it spent on each activity, and its observers."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from retrain.records import Plan, Point
from retrain.training.energy import EnergyMeter


@dataclass
class Progress:
    """Counters of one training. With the tensors and the sampler's position, they are its complete state."""

    iteration: int = 0
    points: list[Point] = field(default_factory=list)
    evaluated_images: int = 0
    seconds: float = 0.0
    """Wall time of the loop, including evaluation and saving."""
    evaluation_seconds: float = 0.0
    """The part of `seconds` that was spent on evaluation."""
    saving_seconds: float = 0.0
    """The part of `seconds` that was spent on saving checkpoints."""
    data_seconds: float = 0.0
    """Time before the loop, for reading and decoding drops, moving them to the device, and the set-up."""
    joules: float | None = None
    """Measured energy of the loop. None if a part of it was not measured."""

    @property
    def aside_seconds(self) -> float:
        """Return the loop's time outside iterations: evaluation and saving."""
        return self.evaluation_seconds + self.saving_seconds


class Observer(Protocol):
    """An observer of a training, such as a progress bar, a log or a live metrics page."""

    def started(self, plan: Plan, progress: Progress) -> None:
        """Handle the start of the loop, or its resumption at `progress.iteration`."""

    def stepped(self, progress: Progress) -> None:
        """Handle the launch of an iteration. This method must return immediately and never wait for the device."""

    def evaluated(self, point: Point) -> None:
        """Handle an evaluation of the validation split."""

    def ended(self, outcome: str, progress: Progress) -> None:
        """Handle the end of the loop."""


class Observers:
    """A group of observers, possibly empty. Each observer receives every event."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def started(self, plan: Plan, progress: Progress) -> None:
        """Pass the event on."""
        for observer in self.observers:
            observer.started(plan, progress)

    def stepped(self, progress: Progress) -> None:
        """Pass the event on."""
        for observer in self.observers:
            observer.stepped(progress)

    def evaluated(self, point: Point) -> None:
        """Pass the event on."""
        for observer in self.observers:
            observer.evaluated(point)

    def ended(self, outcome: str, progress: Progress) -> None:
        """Pass the event on."""
        for observer in self.observers:
            observer.ended(outcome, progress)


class Stopwatch:
    """A stopwatch that adds wall time and energy to a training's progress, and measures the time outside iterations."""

    def __init__(self, progress: Progress, meter: EnergyMeter) -> None:
        self.progress, self._meter = progress, meter
        is_new = progress.seconds == 0
        progress.joules = (0.0 if is_new else progress.joules) if meter.is_available else None
        self._last = self._saved = time.monotonic()

    def tick(self) -> float:
        """Update the total and return the seconds since the last tick."""
        now = time.monotonic()
        passed, self._last = now - self._last, now
        self.progress.seconds += passed
        if self.progress.joules is not None:
            self.progress.joules += self._meter.joules()
        return passed

    @contextmanager
    def aside(self, phase: Literal["evaluation", "saving"]) -> Iterator[None]:
        """Count the time within the context as evaluation or saving."""
        self.tick()
        if phase == "saving":
            self._saved = self._last
        try:
            yield
        finally:
            passed = self.tick()
            if phase == "evaluation":
                self.progress.evaluation_seconds += passed
            else:
                self.progress.saving_seconds += passed

    def due(self, seconds: float) -> bool:
        """Return whether this many seconds have passed since the last saving, or since the start.

        All ranks save together, even if only one of them is due. The next saving is then due later in all of them.
        """
        return time.monotonic() - self._saved >= seconds
