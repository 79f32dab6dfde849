"""Receive S3 events from an SQS queue: which drops of the watched tasks have ended."""

import logging
import math
import re
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from boto3.session import Session
from botocore.config import Config

from retrain.config.fields import CREDENTIALS_MESSAGE
from retrain.config.task import Task
from retrain.errors import StoreError, UserError
from retrain.monitoring import names
from retrain.store.keys import TaskKeys
from retrain.store.s3.errors import Location, translate_errors
from retrain.utils.text import has_credentials
from retrain.watcher.events import EventError, parse_event
from retrain.watcher.health import Health

BATCH = 10
"""SQS hands out and deletes at most ten messages at a time."""
LONGEST_WAIT = 20.0
"""Seconds that SQS holds a request open for a message."""
VISIBILITY = 300
"""Seconds for which SQS hides a received message from other watchers: longer than its drops take to check."""

CONFIG = Config(retries={"mode": "standard", "total_max_attempts": 4}, connect_timeout=2, read_timeout=30)


class Message(NamedTuple):
    """One message, and the handle that deletes it."""

    body: str
    receipt: str


class SqsQueue:
    """An SQS queue, given by its URL. Credentials come from boto3's chain, and so does the region outside AWS's hosts.

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
        """Delete handled messages. Raises `StoreError`; SQS then delivers them again, which is harmless."""
        for start in range(0, len(messages), BATCH):
            batch = messages[start : start + BATCH]
            entries = [{"Id": str(number), "ReceiptHandle": m.receipt} for number, m in enumerate(batch)]
            with self._explained():
                self._client.delete_message_batch(QueueUrl=self._url, Entries=entries)

    def _explained(self) -> AbstractContextManager[None]:
        return translate_errors(Location(self._url, self._endpoint, ""))


MAX_MESSAGES = 1000
"""Messages received in one turn: enough to check a drop once for many, few enough to finish before they reappear."""

log = logging.getLogger("retrain")


class ReceivedEvents(NamedTuple):
    """Messages that could be parsed, the tasks that each names, and the ids of the drops that they name, by task."""

    messages: list[tuple[Message, frozenset[str]]]
    drops: dict[str, set[str]]

    def deletable(self, failed: Collection[str]) -> list[Message]:
        """Return the messages that may be deleted: those that name none of the `failed` tasks."""
        return [message for message, tasks in self.messages if tasks.isdisjoint(failed)]


class EventQueue:
    """Receives events. A message that cannot be parsed stays in SQS, which moves it to the dead-letter queue."""

    def __init__(self, queue: SqsQueue, tasks: Iterable[Task], health: Health) -> None:
        self._queue, self._health = queue, health
        self._places = {task.name: _bucket_and_prefix(task) for task in tasks}

    def receive(self, wait: float) -> ReceivedEvents:
        """Return the waiting events; wait at most `wait` seconds for the first one.

        An error of the queue is logged and counted, and does not stop the watcher.
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
        """Delete messages whose drops have been noted. If that fails, SQS delivers them again, which is harmless."""
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
            named = set()
            for item in written:
                for task, (bucket, prefix) in self._places.items():
                    if drop := item.ended_drop(bucket, prefix):
                        named.add(task)
                        mail.drops.setdefault(task, set()).add(drop)
            mail.messages.append((message, frozenset(named)))

    def _failed(self, error: Exception) -> None:
        log.warning("%s", error)
        self._health.count(names.WATCHER_QUEUE_ERRORS)


def _bucket_and_prefix(task: Task) -> tuple[str, str]:
    """Return the bucket and prefix of a task's drops."""
    bucket, _, prefix = task.store.removeprefix("s3://").partition("/")
    return bucket, "/".join(part for part in (prefix.strip("/"), TaskKeys(task.name).drops) if part)
