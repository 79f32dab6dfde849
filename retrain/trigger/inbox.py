"""What a queue's messages say of the watched tasks: which of their drops have ended."""

import logging
import time
from collections.abc import Iterable
from typing import NamedTuple

from retrain.config import Task
from retrain.errors import StoreError
from retrain.layout import Layout
from retrain.observe import names
from retrain.trigger.events import EventError, parse
from retrain.trigger.health import Health
from retrain.trigger.queue import Message, Queue

MOST = 1000
"""Messages that are taken at once: enough to look once for many, few enough to be done before others see them."""

log = logging.getLogger("retrain")


class Mail(NamedTuple):
    """Messages that were understood, and the ids of the drops that they name, by task."""

    messages: list[Message]
    drops: dict[str, set[str]]


class Inbox:
    """Messages that cannot be understood are left to SQS, which sets them aside after some more tries."""

    def __init__(self, queue: Queue, tasks: Iterable[Task], health: Health) -> None:
        self._queue, self._health = queue, health
        self._places = {task.name: _place(task) for task in tasks}

    def receive(self, wait: float) -> Mail:
        """Return what has come within `wait` seconds at most, and what lies there besides.

        A queue that does not answer is no reason to stop.
        """
        mail = Mail([], {})
        try:
            while received := self._queue.receive(wait if not mail.messages else 0):
                self._sort(received, mail)
                if len(mail.messages) >= MOST:
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

    def _sort(self, received: Iterable[Message], mail: Mail) -> None:
        for message in received:
            try:
                written = parse(message.body)
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


def _place(task: Task) -> tuple[str, str]:
    """Bucket and prefix of a task's drops."""
    bucket, _, prefix = task.store.removeprefix("s3://").partition("/")
    return bucket, "/".join(part for part in (prefix.strip("/"), Layout(task.name).drops) if part)
