"""How long this process's requests to S3 took, by operation, until the head of the reply was there."""

import logging
import time
from typing import Any

from retrain.utils.durations import Durations

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
REQUESTS = Durations(BOUNDS)
"""Of all clients of the process; labelled by operation, such as GetObject. Botocore's own retries are included."""

log = logging.getLogger("retrain")


def time_requests(client: Any) -> None:
    """Have an S3 client of boto3 observe its requests."""
    client.meta.events.register("before-call.s3", _note_start)
    client.meta.events.register("after-call.s3", _observe)
    client.meta.events.register("after-call-error.s3", _observe_error)


def _note_start(context: dict[str, Any], **_: Any) -> None:
    context["retrain_started"] = time.perf_counter()


def _observe(model: Any, context: dict[str, Any], **_: Any) -> None:
    seconds = time.perf_counter() - context["retrain_started"]
    REQUESTS.observe((model.name,), seconds)
    log.debug("S3 %s took %.3f s", model.name, seconds)


def _observe_error(context: dict[str, Any], event_name: str, **_: Any) -> None:
    """Observe a request without a reply; the event's name ends in the operation's."""
    seconds = time.perf_counter() - context["retrain_started"]
    operation = event_name.rpartition(".")[2]
    REQUESTS.observe((operation,), seconds)
    log.debug("S3 %s failed after %.3f s", operation, seconds)
