"""Faults of real stores. The proxy in front of the S3 server injects them."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from threading import Lock

from support.faulty_s3 import Fault, Forward, Reply, Request, refusal


def latency(request: Request, forward: Forward) -> Reply:
    time.sleep(0.2)
    return forward(request)


def internal_error(request: Request, forward: Forward) -> Reply:
    return refusal(500, "InternalError")


def unavailable(request: Request, forward: Forward) -> Reply:
    return refusal(503, "ServiceUnavailable")


def slow_down(request: Request, forward: Forward) -> Reply:
    return refusal(503, "SlowDown")


def reset(request: Request, forward: Forward) -> Reply:
    """Reset the connection in the middle of the reply's body. If the body is empty, reset it before the reply."""
    return replace(cut(request, forward), reset=True)


def cut(request: Request, forward: Forward) -> Reply:
    """End the body before its Content-Length is reached."""
    reply = forward(request)
    if not reply.body:  # there is nothing to cut
        return reply
    return replace(reply, body=reply.body[: len(reply.body) // 2])


def truncated(request: Request, forward: Forward) -> Reply:
    """Send half the body with a matching Content-Length. HTTP accepts this."""
    reply = cut(request, forward)
    return replace(reply, headers=reply.headers | {"Content-Length": str(len(reply.body))})


def lost_request(request: Request, forward: Forward) -> None:
    """Break the connection before the request reaches the server."""


def lost_reply(request: Request, forward: Forward) -> None:
    """Let the server execute the request, and drop its reply."""
    forward(request)


def expired(request: Request, forward: Forward) -> Reply:
    return refusal(400, "ExpiredToken")


def skewed(request: Request, forward: Forward) -> Reply:
    """Answer like a server whose clock is an hour ahead. S3 refuses requests that were signed over 15 minutes ago."""
    signed = datetime.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    late = datetime.now(UTC) + timedelta(hours=1) - signed > timedelta(minutes=15)
    return refusal(403, "RequestTimeTooSkewed") if late else forward(request)


PASSING: Mapping[str, Fault] = {
    fault.__name__: fault
    for fault in (latency, internal_error, unavailable, slow_down, reset, cut, truncated, lost_request, lost_reply)
}
"""Temporary faults. A client must survive them."""

LASTING: Mapping[str, Fault] = {fault.__name__: fault for fault in (expired, skewed, unavailable, lost_request)}
"""Faults that a retry cannot solve."""


class First:
    """A fault of the first `count` requests of one method. All other requests are forwarded."""

    def __init__(self, method: str, fault: Fault, count: int = 1) -> None:
        self.method, self.fault, self.left = method, fault, count
        self.lock = Lock()

    def __call__(self, request: Request, forward: Forward) -> Reply | None:
        with self.lock:
            struck = request.method == self.method and self.left > 0
            self.left -= struck
        return self.fault(request, forward) if struck else forward(request)


class Sometimes:
    """Faults of a random share of all requests. `struck` counts the injected faults by name."""

    def __init__(self, faults: Mapping[str, Fault], share: float, seed: int) -> None:
        self._faults, self._share, self._random, self._lock = faults, share, Random(seed), Lock()
        self.struck: Counter[str] = Counter()

    def __call__(self, request: Request, forward: Forward) -> Reply | None:
        with self._lock:
            name = self._random.choice(sorted(self._faults)) if self._random.random() < self._share else None
            self.struck.update([name] if name else [])
        return self._faults[name](request, forward) if name else forward(request)


class Numbered:
    """A fault of each request for whose number `strikes` returns True. The first request has the number 1."""

    def __init__(self, strikes: Callable[[int], bool], fault: Fault) -> None:
        self._strikes, self._fault, self._lock = strikes, fault, Lock()
        self.requests = 0

    def __call__(self, request: Request, forward: Forward) -> Reply | None:
        with self._lock:
            self.requests += 1
            struck = self._strikes(self.requests)
        return self._fault(request, forward) if struck else forward(request)


def every(n: int, fault: Fault) -> Numbered:
    """Return a fault of every `n`-th request. Retries then succeed."""
    return Numbered(lambda number: number % n == 0, fault)


def starting_at(n: int, fault: Fault) -> Numbered:
    """Return a fault of all requests from the `n`-th on."""
    return Numbered(lambda number: number >= n, fault)
