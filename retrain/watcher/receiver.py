"""Receive events that a server pushes over HTTP, as MinIO, Ceph, Pub/Sub and Event Grid do: `POST /events`.

Event Grid first requests permission with the method OPTIONS (CloudEvents' web hooks, section 4). Events are not stored.
If a watcher dies with unhandled events, the next poll finds their drops.
"""

import hmac
import logging
import os
from collections.abc import Iterable
from http import HTTPStatus
from threading import Condition
from urllib.parse import parse_qs

from retrain.config.task import Task
from retrain.errors import UserError
from retrain.monitoring import names
from retrain.monitoring.web import Environ, StartResponse, reply
from retrain.watcher.events import EventError, parse_event
from retrain.watcher.health import Health
from retrain.watcher.queue import ReceivedEvents, TaskLocations

PATH = "/events"
TOKEN_VARIABLE = "RETRAIN_EVENTS_TOKEN"
"""Environment variable with the token that authenticates requests. Without it, no events are accepted."""
ORIGIN = "HTTP_WEBHOOK_REQUEST_ORIGIN"
"""WSGI's key of the header with which Event Grid requests permission."""
SHORTEST_TOKEN = 16
"""Smallest number of characters of the token. A shorter token can be guessed."""
BODY_BYTES = 1 << 20
"""Largest size of a request's body, in bytes. An event has about 1 KB."""
MOST_WAITING = 10_000
"""Largest number of drops that wait for the watcher's next turn. Events about further drops are refused. The next poll
finds these drops."""

log = logging.getLogger("retrain")


class EventReceiver:
    """Collects the completed drops of the watched tasks. Its methods are called by several threads."""

    def __init__(self, token: str, tasks: Iterable[Task], health: Health) -> None:
        """Prepare a receiver. Raises `UserError` if the token is too short."""
        if len(token) < SHORTEST_TOKEN:
            raise UserError(f"${TOKEN_VARIABLE} has {len(token)} characters; at least {SHORTEST_TOKEN} are needed")
        self._token, self._health, self._locations = token.encode(), health, TaskLocations(tasks)
        self._drops: dict[str, set[str]] = {}
        self._landed = Condition()

    def receive(self, wait: float) -> ReceivedEvents:
        """Return the drops completed since the last call, and wait at most `wait` seconds for the first one."""
        with self._landed:
            self._landed.wait_for(lambda: self._drops, wait)
            drops, self._drops = self._drops, {}
        return ReceivedEvents([], drops)

    def delete(self, messages: object) -> None:
        """Do nothing, because events are not stored."""

    def answer(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request with an event in its body."""
        status, text = self._handle(environ)
        allowed = environ["REQUEST_METHOD"] == "OPTIONS" and status == HTTPStatus.OK
        more = [("WebHook-Allowed-Origin", str(environ.get(ORIGIN, "*")))] if allowed else []
        return reply(start_response, f"{status.value} {status.phrase}", "text/plain", f"{text}\n".encode(), *more)

    def _handle(self, environ: Environ) -> tuple[HTTPStatus, str]:
        if environ["REQUEST_METHOD"] not in ("POST", "OPTIONS"):
            return HTTPStatus.METHOD_NOT_ALLOWED, "send an event with the method POST"
        if not hmac.compare_digest(_token_of(environ).encode(), self._token):
            advice = "in the header `Authorization: Bearer TOKEN`, or as `?token=TOKEN`"
            return HTTPStatus.UNAUTHORIZED, f"send the token of ${TOKEN_VARIABLE} {advice}"
        if environ["REQUEST_METHOD"] == "OPTIONS":
            return HTTPStatus.OK, "ok"
        body = environ["wsgi.input"].read().decode("utf-8", "replace")
        if not body:
            return HTTPStatus.OK, "ok"  # MinIO sends an empty request to test the endpoint
        try:
            drops = self._locations.completed_drops(parse_event(body))
        except EventError as error:
            log.warning("%s", error)
            self._health.count(names.WATCHER_QUEUE_ERRORS)
            return HTTPStatus.BAD_REQUEST, "not an event of an object store"
        return self._add_drops(drops)

    def _add_drops(self, drops: dict[str, set[str]]) -> tuple[HTTPStatus, str]:
        with self._landed:
            if sum(map(len, self._drops.values())) >= MOST_WAITING:
                return HTTPStatus.SERVICE_UNAVAILABLE, "too many drops wait; the next poll finds this one"
            for task, ids in drops.items():
                self._drops.setdefault(task, set()).update(ids)
            self._landed.notify()
        return HTTPStatus.OK, "ok"


def _token_of(environ: Environ) -> str:
    """Return the token of a request: from its header, or from its address if a server cannot send headers."""
    scheme, _, token = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return parse_qs(str(environ.get("QUERY_STRING", ""))).get("token", [""])[0]


def receiver_from_environment(tasks: Iterable[Task], health: Health) -> EventReceiver | None:
    """Return the receiver, or None if $RETRAIN_EVENTS_TOKEN is not set. Raises `UserError` for a short token."""
    token = os.environ.get(TOKEN_VARIABLE)
    return EventReceiver(token, tasks, health) if token else None
