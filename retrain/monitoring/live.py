"""Serve the metrics of the current run, computed from the counters of the training loop."""

import time
from collections.abc import Iterator, Mapping

from prometheus_client import make_wsgi_app
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from retrain.monitoring import names
from retrain.monitoring.metrics import family, make_registry
from retrain.monitoring.names import Name
from retrain.monitoring.web import WebServer
from retrain.records import Plan, Point
from retrain.training.progress import Progress

LabelledValues = Mapping[tuple[str, ...], float | None]
"""Values of one metric by its labels. The labels task and method are left out, because every metric has them."""

TREND = 4
"""Number of last evaluations from which the time to the target is estimated."""


def serve_live_metrics(host: str, port: int) -> "LiveMetrics":
    """Serve /metrics until the process ends, and return the observer that supplies the values.

    Raises `OSError` if the port cannot be opened.
    """
    live = LiveMetrics()
    WebServer(host, port, make_wsgi_app(make_registry(live)))
    return live


class LiveMetrics(Collector):
    """Observes the training loop. Metrics are computed at each scrape, so the loop does no extra work."""

    def __init__(self) -> None:
        self._plan: Plan | None = None

    def started(self, plan: Plan, progress: Progress) -> None:
        """Serve the metrics of this run from now on."""
        self._progress, self._first = progress, progress.iteration
        self._since, self._seconds = time.monotonic(), progress.seconds
        self._running, self._plan = True, plan

    def stepped(self, progress: Progress) -> None:
        """Do nothing, because a scrape reads the counters."""

    def evaluated(self, point: Point) -> None:
        """Do nothing, because a scrape reads the points."""

    def ended(self, outcome: str, progress: Progress) -> None:
        """Stop counting the run's seconds."""
        self._running = False

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, or nothing before the first training."""
        if self._plan is None:
            return
        labels = (self._plan.task.name, self._plan.method)
        for name, values in (*self._work(self._plan), *self._quality(self._plan)):
            yield family(name, [((*labels, *more), value) for more, value in values.items() if value is not None])

    def _work(self, plan: Plan) -> Iterator[tuple[Name, LabelledValues]]:
        progress = self._progress
        yield names.TRAINING_ITERATION, {(): progress.iteration}
        yield names.TRAINING_SCHEDULE, {(): plan.iterations}
        yield names.TRAINING_IMAGES, {(): progress.iteration * plan.task.training.batch_size}
        yield names.TRAINING_SECONDS, {(): progress.data_seconds + self._elapsed()}
        aside: LabelledValues = {
            ("evaluation",): progress.evaluation_seconds,
            ("saving",): progress.saving_seconds,
            ("data",): progress.data_seconds,
        }
        yield names.TRAINING_ASIDE, aside
        yield names.TRAINING_ETA, {(): self._eta(plan)}

    def _quality(self, plan: Plan) -> Iterator[tuple[Name, LabelledValues]]:
        if plan.target:
            yield names.TRAINING_TARGET, {(plan.metric,): plan.target.accuracy}
        if self._progress.points:
            point = self._progress.points[-1]
            yield names.TRAINING_ACCURACY, {(): point.accuracy}
            yield names.TRAINING_SCORE, {(plan.metric,): point.score}
            yield names.TRAINING_LOSS, {("val",): point.loss, ("train",): point.train_loss}
            yield names.TRAINING_RATE, {(): point.learning_rate}

    def _elapsed(self) -> float:
        """Return the seconds in the training loop, including those before the run was interrupted."""
        return self._seconds + time.monotonic() - self._since if self._running else self._progress.seconds

    def _eta(self, plan: Plan) -> float | None:
        """Return the seconds until the run ends, at the mean speed of this process.

        The run ends at its target or with its schedule. The estimate is for the earlier of the two.
        """
        done = self._progress.iteration - self._first
        if not self._running or done == 0:
            return None
        left: float = plan.iterations - self._progress.iteration
        needed = iterations_to_target(self._progress, plan.target.accuracy) if plan.target else None
        left = left if needed is None else min(left, needed)
        return left * (time.monotonic() - self._since) / done


def iterations_to_target(progress: Progress, target: float) -> float | None:
    """Return the iterations until a straight line through the last evaluations reaches the target.

    None while there are fewer than two evaluations, or if the line does not rise.
    """
    points = progress.points[-TREND:]
    if len(points) < 2:
        return None
    slope = (points[-1].score - points[0].score) / (points[-1].iteration - points[0].iteration)
    if slope <= 0:
        return None
    reached_at = points[-1].iteration + (target - points[-1].score) / slope
    return max(0.0, reached_at - progress.iteration)
