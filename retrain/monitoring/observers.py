"""Observers of a training: a progress bar or log lines on the terminal, and live metrics."""

import atexit
import logging
import math
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from retrain.config import METRIC_NAMES
from retrain.errors import UserError
from retrain.records import Plan, Point
from retrain.training.progress import Observer, Observers, Progress
from retrain.utils.clock import format_seconds
from retrain.utils.logs import is_json
from retrain.utils.text import pluralize

LOOPBACK = "127.0.0.1"


def make_observers(metrics_port: int | None, metrics_host: str) -> Observer:
    """Return the observers of a training in this process. Raises `UserError` if the port cannot be opened."""
    if metrics_port is None:
        return observer_for_stream()
    from retrain.monitoring import live

    try:
        return Observers(observer_for_stream(), live.serve_live_metrics(metrics_host, metrics_port))
    except OSError as error:
        raise UserError(
            f"cannot serve /metrics on {metrics_host}:{metrics_port}: {error.strerror}; choose another --metrics-port"
        ) from error


log = logging.getLogger("retrain")


def observer_for_stream() -> Observer:
    """Return a progress bar if standard error is a terminal and logs at level INFO as plain text, else log lines."""
    is_wanted = sys.stderr.isatty() and log.isEnabledFor(logging.INFO) and not is_json()
    return ProgressBar() if is_wanted else LogLines()


class Pace:
    """Mean speed since the start or resumption of the training in this process."""

    HINT_AFTER = 10.0
    """Seconds of training after which the speed is known well enough for a hint."""
    LONG = 1200.0
    """A training gets no hint if it is expected to end within this number of seconds."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self._batch, self._iterations = plan.task.training.batch_size, plan.iterations
        self._first, self._since, self._hinted = progress.iteration, time.monotonic(), False

    def images_per_second(self, iteration: int) -> str:
        """Return the mean rate up to an iteration, as text."""
        rate = (iteration - self._first) * self._batch / max(time.monotonic() - self._since, 1e-9)
        return f"{rate:,.0f} images/s"

    def seconds_left(self, iteration: int) -> float:
        """Return the seconds until the schedule ends, or 0 before the first iteration in this process."""
        done = iteration - self._first
        return (self._iterations - iteration) * (time.monotonic() - self._since) / done if done else 0.0

    def hint(self, iteration: int) -> str | None:
        """Return advice on how to shorten a long training without a GPU. Return it at most once."""
        if self._hinted or time.monotonic() - self._since < self.HINT_AFTER:
            return None
        self._hinted = True
        left = self.seconds_left(iteration)
        import torch  # a training has imported it; a command that only plans does not need it

        if left < self.LONG or torch.cuda.is_available():
            return None
        return (
            f"without a GPU this training takes up to {format_seconds(left)}; for a quick try set a smaller "
            "data.image_size, training.epochs or model.options.width"
        )


def _opening(plan: Plan, progress: Progress) -> str:
    resumed = f", resumed at iteration {progress.iteration:,}" if progress.iteration else ""
    return f"{plan.run_id}: {plan.reason}; at most {pluralize(plan.iterations, 'iteration')}{resumed}"


def _warnings(plan: Plan) -> tuple[str, ...]:
    """Return the plan's warnings. Return none for a trial on new drops, because a study has hundreds of them."""
    return () if plan.purpose == "trial" and plan.known < len(plan.dataset.drops) else plan.warnings


def _closing(plan: Plan, outcome: str, progress: Progress) -> str:
    reached = f", {_score(progress.points[-1], plan)}" if progress.points else ""
    resumes = "; its checkpoint is saved, and the same command resumes it" if outcome == "preempted" else ""
    return f"{plan.run_id}: {outcome} after {pluralize(progress.iteration, 'iteration')}{reached}{resumes}"


def _score(point: Point, plan: Plan) -> str:
    """Return the score and the target as text.

    A target that was carried over from a scratch run on fewer drops concerns only the validation samples of that run.
    """
    metric = "" if plan.metric == "accuracy" else f"{METRIC_NAMES[plan.metric]} "
    earlier = f", {point.in_scope:.2%} on the baseline's part of val" if point.in_scope is not None else ""
    target = f" (target {plan.target.accuracy:.2%})" if plan.target else ""
    return f"{metric}{point.score:.2%} on val{earlier}{target}"


def _short_score(point: Point, plan: Plan) -> str:
    """Return score and target for a line of 80 columns."""
    if point.in_scope is None or plan.target is None:
        return _score(point, plan)
    return f"{point.in_scope:.2%} (target {plan.target.accuracy:.2%}), val {point.score:.2%}"


class LogLines:
    """Writes log lines at the start, at the end, and at evaluations (at most one in `EVERY_SECONDS`).

    Also writes a line after `SILENT_SECONDS` without a line.
    """

    EVERY_SECONDS = 1.0
    SILENT_SECONDS = 15.0

    def started(self, plan: Plan, progress: Progress) -> None:
        """Log the run, its reason, whether it was resumed, and the plan's warnings."""
        self._plan, self._pace = plan, Pace(plan, progress)
        self._logged_at = self._evaluated_at = time.monotonic()
        log.info(_opening(plan, progress))
        for warning in _warnings(plan):
            log.warning(warning)

    def stepped(self, progress: Progress) -> None:
        """Log the progress if there was no line for a long time."""
        now = time.monotonic()
        if now - self._logged_at >= self.SILENT_SECONDS:
            self._logged_at = now
            self._log(self._where(progress.iteration), progress.iteration)

    def evaluated(self, point: Point) -> None:
        """Log the progress and the score."""
        now = time.monotonic()
        if now - self._evaluated_at >= self.EVERY_SECONDS:
            self._logged_at = self._evaluated_at = now
            self._log(f"{self._where(point.iteration)}, {_score(point, self._plan)}", point.iteration)

    def ended(self, outcome: str, progress: Progress) -> None:
        """Log the outcome."""
        log.info(_closing(self._plan, outcome, progress))

    def _where(self, iteration: int) -> str:
        return f"{iteration:,}/{self._plan.iterations:,} iterations"

    def _log(self, line: str, iteration: int) -> None:
        if left := self._pace.seconds_left(iteration):
            line += f", {self._pace.images_per_second(iteration)}, at most {format_seconds(left)} left"
        log.info(line)
        if hint := self._pace.hint(iteration):
            log.warning(hint)


class StartAndEndLines(LogLines):
    """Writes log lines at the start and at the end only, because several processes write to the same stream."""

    EVERY_SECONDS = SILENT_SECONDS = math.inf


class ProgressBar:
    """A bar of iterations with the score against the target, images a second and the time left."""

    REFRESH_SECONDS = 0.2

    def started(self, plan: Plan, progress: Progress) -> None:
        """Print the run, its reason and the plan's warnings, and draw the bar below."""
        self._plan, self._pace, self._drawn = plan, Pace(plan, progress), 0.0
        self._console = Console(stderr=True, markup=False, highlight=False)
        self._console.print("\n".join((_opening(plan, progress), *_warnings(plan))))
        texts = [TextColumn(f"{{task.fields[{name}]}}") for name in ("score", "rate")]
        columns = (BarColumn(bar_width=None), MofNCompleteColumn(), *texts, TimeRemainingColumn())
        self._bar = Bar(*columns, console=self._console, expand=True, transient=True)
        atexit.register(self._bar.stop)  # restores the cursor if training ends with an error
        self._bar.start()
        self._line = self._bar.add_task("", total=plan.iterations, completed=progress.iteration, score="", rate="")

    def stepped(self, progress: Progress) -> None:
        """Advance the bar, at most once in `REFRESH_SECONDS`."""
        now = time.monotonic()
        if now - self._drawn > self.REFRESH_SECONDS:
            self._drawn = now
            if hint := self._pace.hint(progress.iteration):
                self._console.print(hint)
            self._bar.update(
                self._line, completed=progress.iteration, rate=self._pace.images_per_second(progress.iteration)
            )

    def evaluated(self, point: Point) -> None:
        """Show the score against the target."""
        self._bar.update(self._line, completed=point.iteration, score=_short_score(point, self._plan))

    def ended(self, outcome: str, progress: Progress) -> None:
        """Replace the bar by the outcome."""
        self._bar.stop()
        self._console.print(_closing(self._plan, outcome, progress))
