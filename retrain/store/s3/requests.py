"""Requests to S3: repeat them if their replies are cut off or damaged, and measure them by operation.

botocore retries errors before the reply's body, but not errors within the body.
"""

import time
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from retrain.store.requests import Reply, observe_request, retry_if
from retrain.store.s3.errors import BROKEN_REPLY


def retry(call: Callable[[], Reply]) -> Reply:
    """Return the result of `call`. Repeat it if its reply is cut off or damaged."""
    return retry_if(_is_worth_a_retry, call)


def _is_worth_a_retry(error: Exception) -> bool:
    """Return whether a reply was cut off or damaged, or whether the final reply of a multipart upload was lost.

    In the second case botocore repeats the final request, and S3 answers `NoSuchUpload`.
    """
    refusal = error.__context__
    upload_has_ended = isinstance(refusal, ClientError) and refusal.response["Error"]["Code"] == "NoSuchUpload"
    return isinstance(error, BROKEN_REPLY) or upload_has_ended


def time_requests(client: Any) -> None:
    """Count and log the requests of an S3 client of boto3."""
    client.meta.events.register("before-call.s3", _note_start)
    client.meta.events.register("after-call.s3", _observe)
    client.meta.events.register("after-call-error.s3", _observe_error)


def _note_start(context: dict[str, Any], **_: Any) -> None:
    context["retrain_started"] = time.perf_counter()


def _observe(model: Any, context: dict[str, Any], **_: Any) -> None:
    seconds = time.perf_counter() - context["retrain_started"]
    observe_request("S3", model.name, seconds)


def _observe_error(context: dict[str, Any], event_name: str, **_: Any) -> None:
    """Record a request without a reply. The event's name ends in the operation's name."""
    seconds = time.perf_counter() - context["retrain_started"]
    observe_request("S3", event_name.rpartition(".")[2], seconds, failed=True)
