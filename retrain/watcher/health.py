"""The watcher's health: whether it lives, whether it works, its metrics, and the HTTP endpoints that serve them."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from threading import Lock

from prometheus_client import make_wsgi_app
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from retrain.monitoring import names
from retrain.monitoring.metrics import family, make_registry
from retrain.monitoring.names import Name
from retrain.monitoring.web import App, Environ, StartResponse, reply
from retrain.pipeline.trigger import CONDITIONS, Condition, TriggerState

MAX_SILENCE = 900.0
"""Seconds without a sign of life after which a watcher that is not at work on a run or a drop counts as stuck."""


class Health(Collector):
    """Written by the watcher's thread, read by those that answer requests."""

    def __init__(self, tasks: Iterable[str]) -> None:
        self._tasks = sorted(tasks)
        self._lock = Lock()
        self._counts: Counter[tuple[Name, str]] = Counter()
        self._oldest: dict[str, datetime | None] = {}
        self._in_flight: Counter[str] = Counter()
        self._deferred: dict[str, set[Condition]] = {}
        self._problems = dict.fromkeys(self._tasks, "not looked at yet")
        self._alive_at, self._working = time.monotonic(), False

    def alive(self, *, working: bool = False) -> None:
        """Note a sign of life; `working`: the next may take as long as a run does, or a validation."""
        with self._lock:
            self._alive_at, self._working = time.monotonic(), working

    def seen_to(self, task: str) -> None:
        """Note that a task was looked at and advanced."""
        with self._lock:
            self._problems.pop(task, None)

    def waits_since(self, task: str, oldest: datetime | None) -> None:
        """Note when the oldest drop was committed that waits for a run, if any does."""
        with self._lock:
            self._oldest[task] = oldest

    def runs(self, task: str, in_flight: int) -> None:
        """Note how many runs of a task are under way."""
        with self._lock:
            self._in_flight[task] = in_flight

    def deferred(self, task: str, state: TriggerState | None) -> None:
        """Note what a task's trigger waits for; None: nothing."""
        with self._lock:
            self._deferred[task] = {one.condition for one in state.unmet} if state else set()

    def count(self, name: Name, task: str = "", times: int = 1) -> None:
        """Count events under one of the watcher's metrics."""
        with self._lock:
            self._counts[name, task] += times

    def failed(self, task: str, problem: str) -> None:
        """Note why a task could not be seen to."""
        with self._lock:
            self._problems[task] = problem
            self._counts[names.WATCHER_ERRORS, task] += 1

    def is_alive(self) -> bool:
        """Whether the watcher's loop goes round."""
        with self._lock:
            return self._working or time.monotonic() - self._alive_at < MAX_SILENCE

    def problems(self) -> list[str]:
        """What keeps tasks from being seen to, a line each; none: the watcher is ready."""
        with self._lock:
            return [f"{task}: {problem}" for task, problem in sorted(self._problems.items())]

    def collect(self) -> Iterator[Metric]:
        """Yield the watcher's metrics, every task with a value from the start."""
        with self._lock:
            oldest, counts, in_flight = dict(self._oldest), self._counts.copy(), self._in_flight.copy()
            deferred = dict(self._deferred)
        yield family(names.WATCHER_LAG, [((task,), _seconds_since(oldest.get(task))) for task in self._tasks])
        yield family(names.WATCHER_IN_FLIGHT, [((task,), in_flight[task]) for task in self._tasks])
        waits = [((task, one), one in deferred.get(task, ())) for task in self._tasks for one in CONDITIONS]
        yield family(names.WATCHER_TRIGGER, waits)
        for name in (names.WATCHER_SUBMISSIONS, names.WATCHER_QUARANTINED, names.WATCHER_ERRORS):
            yield family(name, [((task,), counts[name, task]) for task in self._tasks])
        yield family(names.WATCHER_QUEUE_ERRORS, [((), counts[names.WATCHER_QUEUE_ERRORS, ""])])


def _seconds_since(moment: datetime | None) -> float:
    return max(0.0, (datetime.now(UTC) - moment).total_seconds()) if moment else 0.0


def health_app(health: Health) -> App:
    """Return the WSGI application."""
    metrics: App = make_wsgi_app(make_registry(health))

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                return metrics(environ, start_response)
            case "/healthz":
                problems = [] if health.is_alive() else ["the watcher's loop has stopped"]
            case "/readyz":
                problems = health.problems()
            case _:
                return reply(start_response, "404 Not Found", "text/plain", b"there is /healthz, /readyz, /metrics\n")
        status = "503 Service Unavailable" if problems else "200 OK"
        return reply(start_response, status, "text/plain", ("\n".join(problems or ["ok"]) + "\n").encode())

    return answer
