"""Requests to S3: sent again where their replies broke, and timed by operation.

Botocore retries what fails before the reply's body, and nothing after.
"""

import time
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError, FlexibleChecksumError, ResponseStreamingError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from retrain.store.requests import Reply, observe_request, retry_if

BROKEN = (HTTPError, ResponseParserError, FlexibleChecksumError, ResponseStreamingError)
"""The body ended too early, is half a document, or is not what its checksum says."""


def retry(call: Callable[[], Reply]) -> Reply:
    """Return what `call` returns; repeat it if its reply broke."""
    return retry_if(_passes, call)


def _passes(error: Exception) -> bool:
    """Return whether a repetition may help: a reply broke, or the one that ended a multipart upload was lost."""
    refusal = error.__context__
    ended = isinstance(refusal, ClientError) and refusal.response["Error"]["Code"] == "NoSuchUpload"
    return isinstance(error, BROKEN) or ended


def time_requests(client: Any) -> None:
    """Have an S3 client of boto3 observe its requests."""
    client.meta.events.register("before-call.s3", _note_start)
    client.meta.events.register("after-call.s3", _observe)
    client.meta.events.register("after-call-error.s3", _observe_error)


def _note_start(context: dict[str, Any], **_: Any) -> None:
    context["retrain_started"] = time.perf_counter()


def _observe(model: Any, context: dict[str, Any], **_: Any) -> None:
    seconds = time.perf_counter() - context["retrain_started"]
    observe_request("S3", model.name, seconds)


def _observe_error(context: dict[str, Any], event_name: str, **_: Any) -> None:
    """Observe a request without a reply; the event's name ends in the operation's."""
    seconds = time.perf_counter() - context["retrain_started"]
    observe_request("S3", event_name.rpartition(".")[2], seconds, failed=True)
