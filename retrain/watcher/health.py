"""Track the watcher's liveness, readiness and metrics, and serve them over HTTP."""

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
"""Seconds without a heartbeat after which a watcher counts as stuck, unless it trains or validates a drop."""
UNCHECKED = "not checked yet"
"""Problem of each task until its drops have been checked once."""


class Health(Collector):
    """Health of one watcher: written by the watcher's thread, read by the threads that answer requests."""

    def __init__(self, tasks: Iterable[str]) -> None:
        self._tasks = sorted(tasks)
        self._lock = Lock()
        self._counts: Counter[tuple[Name, str]] = Counter()
        self._oldest: dict[str, datetime | None] = {}
        self._in_flight: Counter[str] = Counter()
        self._failing_webhooks: Counter[str] = Counter()
        self._deferred: dict[str, set[Condition]] = {}
        self._problems = dict.fromkeys(self._tasks, UNCHECKED)
        self._alive_at, self._working = time.monotonic(), False

    def heartbeat(self, *, working: bool = False) -> None:
        """Record a heartbeat. With `working`, the next heartbeat may come only after a run or a validation."""
        with self._lock:
            self._alive_at, self._working = time.monotonic(), working

    def succeeded(self, task: str) -> None:
        """Record that the watcher checked a task's drops and started or followed its runs without an error."""
        with self._lock:
            self._problems.pop(task, None)

    def checked(self, task: str) -> None:
        """Record that the watcher checked a task's drops. Its next steps may train for hours in this process."""
        with self._lock:
            if self._problems.get(task) == UNCHECKED:
                del self._problems[task]

    def set_oldest_waiting(self, task: str, oldest: datetime | None) -> None:
        """Set the time of the oldest drop, amendment or erasure that waits for a run. None if none waits."""
        with self._lock:
            self._oldest[task] = oldest

    def set_in_flight(self, task: str, in_flight: int) -> None:
        """Set the number of a task's runs in flight: drops are assigned to them, and they have not ended."""
        with self._lock:
            self._in_flight[task] = in_flight

    def set_failing_webhooks(self, task: str, failing: int) -> None:
        """Set the number of a task's webhooks that did not confirm an event."""
        with self._lock:
            self._failing_webhooks[task] = failing

    def set_deferred(self, task: str, state: TriggerState | None) -> None:
        """Set the conditions that a task's trigger waits for. None if it waits for nothing."""
        with self._lock:
            self._deferred[task] = {one.condition for one in state.unmet} if state else set()

    def count(self, name: Name, task: str = "", times: int = 1) -> None:
        """Increase one of the watcher's counters."""
        with self._lock:
            self._counts[name, task] += times

    def failed(self, task: str, problem: str) -> None:
        """Record a problem: a task's drops could not be checked, or its runs could not be started or followed."""
        with self._lock:
            self._problems[task] = problem
            self._counts[names.WATCHER_ERRORS, task] += 1

    def is_alive(self) -> bool:
        """Return whether the watcher's loop is still running."""
        with self._lock:
            return self._working or time.monotonic() - self._alive_at < MAX_SILENCE

    def problems(self) -> list[str]:
        """Return one line for each task with a problem. Empty if the watcher is ready."""
        with self._lock:
            return [f"{task}: {problem}" for task, problem in sorted(self._problems.items())]

    def collect(self) -> Iterator[Metric]:
        """Yield the watcher's metrics. From the start, each metric with the label `task` has a value for every task."""
        with self._lock:
            oldest, counts, in_flight = dict(self._oldest), self._counts.copy(), self._in_flight.copy()
            deferred, failing = dict(self._deferred), self._failing_webhooks.copy()
        yield family(names.WATCHER_LAG, [((task,), _seconds_since(oldest.get(task))) for task in self._tasks])
        yield family(names.WATCHER_IN_FLIGHT, [((task,), in_flight[task]) for task in self._tasks])
        waits = [((task, one), one in deferred.get(task, ())) for task in self._tasks for one in CONDITIONS]
        yield family(names.WATCHER_TRIGGER, waits)
        for name in (names.WATCHER_SUBMISSIONS, names.WATCHER_QUARANTINED, names.WATCHER_ERRORS):
            yield family(name, [((task,), counts[name, task]) for task in self._tasks])
        yield family(names.WATCHER_QUEUE_ERRORS, [((), counts[names.WATCHER_QUEUE_ERRORS, ""])])
        yield family(names.WATCHER_WEBHOOKS, [((task,), failing[task]) for task in self._tasks])


def _seconds_since(moment: datetime | None) -> float:
    return max(0.0, (datetime.now(UTC) - moment).total_seconds()) if moment else 0.0


def health_app(health: Health, events: App | None = None) -> App:
    """Return the WSGI application of /healthz, /readyz and /metrics. `events` answers requests to /events."""
    metrics: App = make_wsgi_app(make_registry(health))

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                return metrics(environ, start_response)
            case "/events" if events:
                return events(environ, start_response)
            case "/healthz":
                problems = [] if health.is_alive() else ["the watcher's loop has stopped"]
            case "/readyz":
                problems = health.problems()
            case _:
                hint = b"not found; use /healthz, /readyz or /metrics\n"
                return reply(start_response, "404 Not Found", "text/plain", hint)
        status = "503 Service Unavailable" if problems else "200 OK"
        return reply(start_response, status, "text/plain", ("\n".join(problems or ["ok"]) + "\n").encode())

    return answer
