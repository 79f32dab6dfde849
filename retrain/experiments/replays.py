"""Repeat a run's training to measure its network during the training, because no snapshots are stored."""

from collections.abc import Callable
from contextlib import closing

from retrain.records import Plan, Point
from retrain.training.hardware import use_threads
from retrain.training.loop import run_loop
from retrain.training.progress import Progress
from retrain.training.setup import Run

MEASUREMENTS = 50
"""Number of evenly spaced measurements in a training, besides the measurements of `EARLY`."""

EARLY = (0, 1, 2, 5, 10, 20, 50, 100, 200)
"""Iterations after which the start of a training is measured."""


def early_and_even(iterations: int) -> set[int]:
    """Return the iterations after which a training of this length is measured."""
    even = {round(iterations * number / MEASUREMENTS) for number in range(MEASUREMENTS + 1)}
    return {*even, *(early for early in EARLY if early <= iterations)}


class StepObserver:
    """An observer that calls a function after every iteration, and before the first."""

    def __init__(self, measure: Callable[[int], None]) -> None:
        self.measure = measure

    def started(self, plan: Plan, progress: Progress) -> None:
        """Call the function before the first iteration."""
        self.measure(progress.iteration)

    def stepped(self, progress: Progress) -> None:
        """Call the function after an iteration."""
        self.measure(progress.iteration)

    def evaluated(self, point: Point) -> None:
        """Do nothing."""

    def ended(self, outcome: str, progress: Progress) -> None:
        """Do nothing."""


def repeat_training(run: Run, measure: Callable[[int], None]) -> None:
    """Train a prepared run to its end, and save nothing.

    After each iteration, call `measure` with the number of iterations.
    """
    with closing(run.loader), use_threads(run.threads):
        run_loop(run, StepObserver(measure), save=lambda _: None, leaving=lambda: False)
