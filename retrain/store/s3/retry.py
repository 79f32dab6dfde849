"""Requests whose replies broke, sent again: botocore retries what fails before the reply's body, and nothing after."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from botocore.exceptions import ClientError, FlexibleChecksumError, ResponseStreamingError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

ATTEMPTS = 4
"""Of each request. Botocore waits up to 1, 2 and 4 s between them: an unreachable server fails within 15 s."""

BROKEN = (HTTPError, ResponseParserError, FlexibleChecksumError, ResponseStreamingError)
"""The body ended too early, is half a document, or is not what its checksum says."""

Reply = TypeVar("Reply")


def retry(call: Callable[[], Reply]) -> Reply:
    """Return what `call` returns, which may be done many times over; the last attempt's error stands."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return call()
        except Exception as error:
            if not _passes(error):
                raise
        backoff(attempt)
    return call()


def backoff(attempt: int) -> None:
    """Wait before the next attempt, for a random while so that those who failed together do not come back together."""
    time.sleep(random.uniform(0, 2**attempt / 10))


def _passes(error: Exception) -> bool:
    """Whether a reply broke, or the one that ended a multipart upload was lost, which has no such upload any more."""
    refusal = error.__context__
    ended = isinstance(refusal, ClientError) and refusal.response["Error"]["Code"] == "NoSuchUpload"
    return isinstance(error, BROKEN) or ended
