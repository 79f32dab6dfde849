"""Receive and delete the messages of an SQS queue. A bucket notifies this queue of its new objects."""

import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from boto3.session import Session
from botocore.config import Config

from retrain.config.fields import CREDENTIALS_MESSAGE
from retrain.errors import UserError
from retrain.store.s3.errors import Location, translate_errors
from retrain.utils.text import has_credentials

BATCH = 10
"""Largest number of messages that SQS returns or deletes in one request."""
LONGEST_WAIT = 20.0
"""Longest time in seconds that SQS waits for a message in a request."""
VISIBILITY = 300
"""Seconds for which SQS hides a received message from other watchers. Checking its drops takes less time."""

CONFIG = Config(retries={"mode": "standard", "total_max_attempts": 4}, connect_timeout=2, read_timeout=30)


class Message(NamedTuple):
    """One message, with the handle that deletes it."""

    body: str
    receipt: str


class SqsQueue:
    """An SQS queue, given by its URL. boto3 finds the credentials, and the region if the URL does not contain one.

    SQS hides a received message for `visibility` seconds, and delivers it again unless it was deleted.
    """

    def __init__(self, url: str, visibility: int = VISIBILITY) -> None:
        if has_credentials(url):
            raise UserError(f"--queue-url {CREDENTIALS_MESSAGE}")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UserError(
                f"--queue-url {url}: must look like https://sqs.eu-west-1.amazonaws.com/123456789012/retrain"
            )
        region = re.search(r"sqs\.([a-z0-9-]+)\.amazonaws\.", parts.netloc)
        self._url, self._endpoint, self._visibility = url, f"{parts.scheme}://{parts.netloc}", visibility
        with self._translate_errors():
            self._client: Any = Session(region_name=region[1] if region else None).client(
                "sqs", endpoint_url=self._endpoint, config=CONFIG
            )

    def receive(self, wait: float) -> list[Message]:
        """Return up to ten messages, after at most `wait` seconds. Raises `StoreError` if the queue does not answer."""
        with self._translate_errors():
            reply = self._client.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=BATCH,
                WaitTimeSeconds=math.ceil(min(wait, LONGEST_WAIT)),
                VisibilityTimeout=self._visibility,
            )
        return [Message(item["Body"], item["ReceiptHandle"]) for item in reply.get("Messages", ())]

    def delete(self, messages: Sequence[Message]) -> None:
        """Delete handled messages. Raises `StoreError` on failure. It is harmless that SQS then delivers them again."""
        for start in range(0, len(messages), BATCH):
            batch = messages[start : start + BATCH]
            entries = [{"Id": str(number), "ReceiptHandle": m.receipt} for number, m in enumerate(batch)]
            with self._translate_errors():
                self._client.delete_message_batch(QueueUrl=self._url, Entries=entries)

    def _translate_errors(self) -> AbstractContextManager[None]:
        return translate_errors(Location(self._url, self._endpoint, ""))
