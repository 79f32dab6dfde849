"""Messages of an SQS queue: taken for a while, deleted once handled. What is never deleted is SQS's to redrive."""

import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from boto3.session import Session
from botocore.config import Config

from retrain.addresses import SECRET, holds_secret
from retrain.errors import UserError
from retrain.store.s3_errors import Place, explained

BATCH = 10
"""SQS hands out and deletes at most ten messages at a time."""
LONGEST_WAIT = 20.0
"""Seconds that SQS holds a request open for a message."""
VISIBILITY = 300
"""Seconds for which a message is hidden from others: longer than it takes to look at what it names."""

CONFIG = Config(retries={"mode": "standard", "total_max_attempts": 4}, connect_timeout=2, read_timeout=30)


class Message(NamedTuple):
    """One message, and what to delete it by."""

    body: str
    receipt: str


class Queue:
    """An SQS queue by its URL; credentials and, outside AWS's own host names, the region by boto3's chain.

    What is received is hidden from others for `visibility` seconds, and then comes again unless it was deleted.
    """

    def __init__(self, url: str, visibility: int = VISIBILITY) -> None:
        if holds_secret(url):
            raise UserError(f"--queue-url {SECRET}")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UserError(
                f"--queue-url {url}: must be as in https://sqs.eu-west-1.amazonaws.com/123456789012/retrain"
            )
        region = re.search(r"sqs\.([a-z0-9-]+)\.amazonaws\.", parts.netloc)
        self._url, self._endpoint, self._visibility = url, f"{parts.scheme}://{parts.netloc}", visibility
        with self._explained():
            self._client: Any = Session(region_name=region[1] if region else None).client(
                "sqs", endpoint_url=self._endpoint, config=CONFIG
            )

    def receive(self, wait: float) -> list[Message]:
        """Return up to ten messages, after at most `wait` seconds. Raises `StoreError` if the queue does not answer."""
        with self._explained():
            reply = self._client.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=BATCH,
                WaitTimeSeconds=math.ceil(min(wait, LONGEST_WAIT)),
                VisibilityTimeout=self._visibility,
            )
        return [Message(item["Body"], item["ReceiptHandle"]) for item in reply.get("Messages", ())]

    def delete(self, messages: Sequence[Message]) -> None:
        """Delete messages that have been handled. Raises `StoreError`; then they come again, which harms nobody."""
        for start in range(0, len(messages), BATCH):
            batch = messages[start : start + BATCH]
            entries = [{"Id": str(number), "ReceiptHandle": m.receipt} for number, m in enumerate(batch)]
            with self._explained():
                self._client.delete_message_batch(QueueUrl=self._url, Entries=entries)

    def _explained(self) -> AbstractContextManager[None]:
        return explained(Place(self._url, self._endpoint, ""))
