"""Receive events from a queue, and find the drops that they complete."""

import logging
import time
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from retrain.config.task import Task
from retrain.errors import StoreError
from retrain.monitoring import names
from retrain.store.keys import TaskKeys
from retrain.watcher.events import EventError, WrittenObject, parse_event
from retrain.watcher.health import Health

if TYPE_CHECKING:
    from retrain.store.s3.sqs import Message, SqsQueue  # importing boto3 is slow; watching folders needs no SQS

MAX_MESSAGES = 1000
"""Largest number of messages in a turn of the watcher's loop. Several messages about a drop cause only one check of the
drop. With more messages, a turn could take so long that SQS delivers the messages again."""

log = logging.getLogger("retrain")


class ReceivedEvents(NamedTuple):
    """Messages that could be parsed, each with the tasks whose drops it completes, and the ids of the drops by task."""

    messages: "list[tuple[Message, frozenset[str]]]"
    drops: dict[str, set[str]]

    def deletable(self, failed: Collection[str]) -> "list[Message]":
        """Return the messages that may be deleted: the messages that name none of the `failed` tasks."""
        return [message for message, tasks in self.messages if tasks.isdisjoint(failed)]


class TaskLocations:
    """The buckets and prefixes of tasks' drops."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._locations = {task.name: _bucket_and_prefix(task) for task in tasks}

    def completed_drops(self, written: Iterable[WrittenObject]) -> dict[str, set[str]]:
        """Return the drops that these objects complete, by task."""
        found: dict[str, set[str]] = {}
        for item in written:
            for task, (bucket, prefix) in self._locations.items():
                if drop := item.completed_drop(bucket, prefix):
                    found.setdefault(task, set()).add(drop)
        return found


class EventSource(Protocol):
    """A source of events."""

    def receive(self, wait: float) -> ReceivedEvents:
        """Return the waiting events, and wait at most `wait` seconds for the first one."""

    def delete(self, messages: "list[Message]") -> None:
        """Delete messages whose drops have been checked."""


class EventQueue:
    """Receives events. A message that cannot be parsed stays in SQS until SQS moves it to the dead-letter queue."""

    def __init__(self, queue: "SqsQueue", tasks: Iterable[Task], health: Health) -> None:
        self._queue, self._health, self._locations = queue, health, TaskLocations(tasks)

    def receive(self, wait: float) -> ReceivedEvents:
        """Return the waiting events, and wait at most `wait` seconds for the first one.

        An error of the queue is logged and counted, and does not stop the watcher.
        """
        events = ReceivedEvents([], {})
        try:
            while received := self._queue.receive(wait if not events.messages else 0):
                self._parse(received, events)
                if len(events.messages) >= MAX_MESSAGES:
                    break
        except StoreError as error:
            self._count_error(error)
            time.sleep(wait)
        return events

    def delete(self, messages: "list[Message]") -> None:
        """Delete messages whose drops have been checked. If that fails, SQS delivers them again, without harm."""
        try:
            self._queue.delete(messages)
        except StoreError as error:
            self._count_error(error)

    def _parse(self, received: "Iterable[Message]", events: ReceivedEvents) -> None:
        for message in received:
            try:
                written = parse_event(message.body)
            except EventError as error:
                self._count_error(error)
                continue
            found = self._locations.completed_drops(written)
            for task, drops in found.items():
                events.drops.setdefault(task, set()).update(drops)
            events.messages.append((message, frozenset(found)))

    def _count_error(self, error: Exception) -> None:
        log.warning("%s", error)
        self._health.count(names.WATCHER_QUEUE_ERRORS)


def _bucket_and_prefix(task: Task) -> tuple[str, str]:
    """Return the bucket and prefix of a task's drops."""
    bucket, _, prefix = task.store.partition("://")[2].partition("/")
    return bucket, "/".join(part for part in (prefix.strip("/"), TaskKeys(task.name).drops) if part)
