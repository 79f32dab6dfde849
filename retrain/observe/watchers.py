"""Who watches a training: a progress bar on a terminal, log lines elsewhere."""

import logging
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from retrain.records import Plan, Point
from retrain.training.progress import Observer, Progress

log = logging.getLogger("retrain")


def for_stream() -> Observer:
    """Return a progress bar if standard error is a terminal, else log lines."""
    return ProgressBar() if sys.stderr.isatty() else LogLines()


class Rate:
    """Images a second since the start, or since the resumption."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self._batch, self._first, self._since = plan.task.training.batch_size, progress.iteration, time.monotonic()

    def __call__(self, iteration: int) -> float:
        """Return the mean rate up to an iteration."""
        return (iteration - self._first) * self._batch / max(time.monotonic() - self._since, 1e-9)


def _accuracy(point: Point | None, plan: Plan) -> str:
    ours = f"{point.accuracy:.2%}" if point else "--"
    return f"{ours} of {plan.target.accuracy:.2%}" if plan.target else ours


class LogLines:
    """A line at the start, at each evaluation, and at the end."""

    def started(self, plan: Plan, progress: Progress) -> None:
        """Say what is trained, and whether it was resumed."""
        self._plan, self._rate, self._iteration = plan, Rate(plan, progress), progress.iteration
        resumed = f", resumed at {progress.iteration}" if progress.iteration else ""
        log.info("%s: %d iterations at most%s (%s)", plan.run_id, plan.iterations, resumed, plan.reason)

    def stepped(self, progress: Progress) -> None:
        """Say nothing."""

    def evaluated(self, point: Point) -> None:
        """Say how far it has come."""
        where = f"{point.iteration}/{self._plan.iterations}"
        log.info("%s accuracy %s, %.0f images/s", where, _accuracy(point, self._plan), self._rate(point.iteration))

    def ended(self, outcome: str, progress: Progress) -> None:
        """Say how it ended."""
        log.info("%s %s after %d iterations", self._plan.run_id, outcome, progress.iteration)


class ProgressBar:
    """A bar of iterations with the accuracy against the target, images a second and the time left."""

    REFRESH_SECONDS = 0.2

    def started(self, plan: Plan, progress: Progress) -> None:
        """Draw the bar."""
        self._plan, self._rate, self._point, self._drawn = plan, Rate(plan, progress), None, 0.0
        columns = ("{task.description}", "{task.fields[accuracy]}", "{task.fields[rate]}")
        texts = [TextColumn(column) for column in columns]
        self._bar = Bar(
            texts[0], BarColumn(), MofNCompleteColumn(), *texts[1:], TimeRemainingColumn(), console=Console(stderr=True)
        )
        self._bar.start()
        total = plan.iterations
        self._line = self._bar.add_task(plan.run_id, total=total, completed=progress.iteration, accuracy="", rate="")

    def stepped(self, progress: Progress) -> None:
        """Move the bar, a few times a second."""
        now = time.monotonic()
        if now - self._drawn > self.REFRESH_SECONDS:
            self._drawn = now
            rate = f"{self._rate(progress.iteration):,.0f} images/s"
            self._bar.update(self._line, completed=progress.iteration, rate=rate)

    def evaluated(self, point: Point) -> None:
        """Show the accuracy against the target."""
        self._bar.update(self._line, completed=point.iteration, accuracy=_accuracy(point, self._plan))

    def ended(self, outcome: str, progress: Progress) -> None:
        """Leave the bar where it ended, with the outcome."""
        self._bar.update(self._line, completed=progress.iteration, description=f"{self._plan.run_id} {outcome}")
        self._bar.stop()
