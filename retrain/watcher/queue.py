"""Receive S3 events from an SQS queue: which drops of the watched tasks have ended."""

import logging
import math
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from boto3.session import Session
from botocore.config import Config

from retrain.config.fields import CREDENTIALS_MESSAGE, has_credentials
from retrain.config.task import Task
from retrain.errors import StoreError, UserError
from retrain.monitoring import names
from retrain.store.keys import TaskKeys
from retrain.store.s3.errors import Location, translate_errors
from retrain.watcher.events import EventError, parse_event
from retrain.watcher.health import Health

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


class SqsQueue:
    """An SQS queue by its URL; credentials and, outside AWS's own host names, the region by boto3's chain.

    What is received is hidden from others for `visibility` seconds, and then comes again unless it was deleted.
    """

    def __init__(self, url: str, visibility: int = VISIBILITY) -> None:
        if has_credentials(url):
            raise UserError(f"--queue-url {CREDENTIALS_MESSAGE}")
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
        return translate_errors(Location(self._url, self._endpoint, ""))


MAX_MESSAGES = 1000
"""Messages that are taken at once: enough to look once for many, few enough to be done before others see them."""

log = logging.getLogger("retrain")


class ReceivedEvents(NamedTuple):
    """Messages that were understood, and the ids of the drops that they name, by task."""

    messages: list[Message]
    drops: dict[str, set[str]]


class EventQueue:
    """Messages that cannot be understood are left to SQS, which sets them aside after some more tries."""

    def __init__(self, queue: SqsQueue, tasks: Iterable[Task], health: Health) -> None:
        self._queue, self._health = queue, health
        self._places = {task.name: _bucket_and_prefix(task) for task in tasks}

    def receive(self, wait: float) -> ReceivedEvents:
        """Return what has come within `wait` seconds at most, and what lies there besides.

        A queue that does not answer is no reason to stop.
        """
        mail = ReceivedEvents([], {})
        try:
            while received := self._queue.receive(wait if not mail.messages else 0):
                self._sort(received, mail)
                if len(mail.messages) >= MAX_MESSAGES:
                    break
        except StoreError as error:
            self._failed(error)
            time.sleep(wait)
        return mail

    def delete(self, messages: list[Message]) -> None:
        """Delete messages whose drops have been noted; should that fail, they come again, which harms nobody."""
        try:
            self._queue.delete(messages)
        except StoreError as error:
            self._failed(error)

    def _sort(self, received: Iterable[Message], mail: ReceivedEvents) -> None:
        for message in received:
            try:
                written = parse_event(message.body)
            except EventError as error:
                self._failed(error)
                continue
            mail.messages.append(message)
            for item in written:
                for task, (bucket, prefix) in self._places.items():
                    if drop := item.ended_drop(bucket, prefix):
                        mail.drops.setdefault(task, set()).add(drop)

    def _failed(self, error: Exception) -> None:
        log.warning("%s", error)
        self._health.count(names.WATCHER_QUEUE_ERRORS)


def _bucket_and_prefix(task: Task) -> tuple[str, str]:
    """Bucket and prefix of a task's drops."""
    bucket, _, prefix = task.store.removeprefix("s3://").partition("/")
    return bucket, "/".join(part for part in (prefix.strip("/"), TaskKeys(task.name).drops) if part)
