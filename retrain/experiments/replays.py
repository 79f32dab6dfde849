"""Train a run once more, to look at its network on the way: the same training again, since no snapshots are kept."""

from collections.abc import Callable
from contextlib import closing

from retrain.records import Plan, Point
from retrain.training.hardware import use_threads
from retrain.training.loop import run_loop
from retrain.training.progress import Progress
from retrain.training.setup import Run

LOOKS = 50
"""Even looks at a training, beside the early ones."""

EARLY = (0, 1, 2, 5, 10, 20, 50, 100, 200)
"""Iterations after which the first moments of a training are looked at."""


def early_and_even(iterations: int) -> set[int]:
    """Return the iterations after which a training of so many is looked at."""
    even = {round(iterations * look / LOOKS) for look in range(LOOKS + 1)}
    return {*even, *(early for early in EARLY if early <= iterations)}


class Onlooker:
    """An observer that calls a function after every iteration, and before the first."""

    def __init__(self, look: Callable[[int], None]) -> None:
        self.look = look

    def started(self, plan: Plan, progress: Progress) -> None:
        """Look at where it starts."""
        self.look(progress.iteration)

    def stepped(self, progress: Progress) -> None:
        """Look at where it is."""
        self.look(progress.iteration)

    def evaluated(self, point: Point) -> None:
        """Do nothing."""

    def ended(self, outcome: str, progress: Progress) -> None:
        """Do nothing."""


def train_again(run: Run, look: Callable[[int], None]) -> None:
    """Train a prepared run to its end, calling `look` with the iterations done; nothing is saved."""
    with closing(run.loader), use_threads(run.threads):
        run_loop(run, Onlooker(look), save=lambda _: None, leaving=lambda: False)
