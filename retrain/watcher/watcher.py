"""Run the watcher's loop. Each turn checks the landed drops, starts and follows the runs, and sends notifications."""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from retrain.errors import UserError
from retrain.store.locks import TaskLocked
from retrain.watcher.health import Health
from retrain.watcher.queue import EventSource, ReceivedEvents
from retrain.watcher.task_watch import TaskWatch

TURN_SECONDS = 20.0
"""Seconds between two turns if no event arrives. This is the longest delay between the end of a run and the start of
the next run."""
RETRY_SECONDS = 20.0
"""Seconds until all drops are checked again, after a failure or while another watcher validates a drop."""

log = logging.getLogger("retrain")


class Watcher:
    """Watches tasks independently. A broken task does not stop the other tasks. SIGKILL is safe at any point.

    A drop that an event names is checked immediately. All drops are also checked every `poll_seconds`, because events
    can get lost.
    """

    def __init__(
        self, watches: Sequence[TaskWatch], health: Health, poll_seconds: float, queue: EventSource | None
    ) -> None:
        self.health = health
        self._watches, self._poll_seconds, self._queue = watches, poll_seconds, queue
        self._next_poll = 0.0

    def run(self) -> None:
        """Run turns until the process is asked to stop."""
        next_turn = 0.0
        while True:
            self.health.heartbeat()
            events = self._receive(next_turn - time.monotonic())
            if events.drops or time.monotonic() >= next_turn:
                self._turn(events)
                next_turn = min(self._next_poll, time.monotonic() + TURN_SECONDS)
            else:
                self._delete(events, failed=())

    def once(self) -> bool:
        """Run one turn with all events in the queue, and return whether nothing failed.

        If another watcher is validating a drop, this is not a failure.
        """
        events = ReceivedEvents([], {})
        while more := self._receive(0).messages:
            events.messages.extend(more)
        self._turn(events)
        return not self.health.problems()

    def _receive(self, wait: float) -> ReceivedEvents:
        wait = max(0.0, wait)
        if self._queue:
            return self._queue.receive(wait)
        time.sleep(wait)
        return ReceivedEvents([], {})

    def _delete(self, events: ReceivedEvents, failed: Collection[str]) -> None:
        """Delete the messages, except messages that name a failed task."""
        if self._queue:
            self._queue.delete(events.deletable(failed))

    def _turn(self, events: ReceivedEvents) -> None:
        """Check drops and delete the messages before the tasks advance, because a run may take hours."""
        checked = self._check_drops(events.drops)
        self._delete(events, failed={watch.task.name for watch in self._watches if watch not in checked})
        for watch in checked:
            self.health.checked(watch.task.name)
        advanced = [watch for watch in self._watches if self._run_step(watch, watch.advance, may_train=True)]
        notified = [watch for watch in self._watches if self._run_step(watch, watch.notify)]
        for watch in checked:
            if watch in advanced and watch in notified:
                self.health.succeeded(watch.task.name)

    def _check_drops(self, drops: Mapping[str, set[str]]) -> list[TaskWatch]:
        """Check these drops of each task, or all drops if a poll is due, and return the watches that did not fail."""
        everywhere = time.monotonic() >= self._next_poll
        wanted = {watch: None if everywhere else drops.get(watch.task.name, ()) for watch in self._watches}
        checked = [watch for watch, ids in wanted.items() if self._run_step(watch, partial(watch.check_drops, ids))]
        if everywhere:
            pause = self._poll_seconds if len(checked) == len(wanted) else min(self._poll_seconds, RETRY_SECONDS)
            self._next_poll = time.monotonic() + pause
        return checked

    def _run_step(self, watch: TaskWatch, step: Callable[[], None], *, may_train: bool = False) -> bool:
        """Run one step of one task, and return whether it succeeded.

        Each step is a heartbeat, because a turn over many tasks takes longer than `MAX_SILENCE` if their stores do not
        answer. With `may_train`, the step may take any time.
        """
        self.health.heartbeat(working=may_train)
        try:
            step()
        except TaskLocked as busy:  # another watcher does this work, so it is no failure
            log.info("%s: %s", watch.task.name, busy)
            self.health.succeeded(watch.task.name)
        except UserError as error:
            log.warning("%s: %s", watch.task.name, error)
            self.health.failed(watch.task.name, str(error))
        except Exception as error:  # a defect in one task must not stop the others
            log.exception("%s", watch.task.name)
            self.health.failed(watch.task.name, f"{type(error).__name__}: {error}")
        else:
            return True
        finally:
            self.health.heartbeat()
            self.health.set_oldest_waiting(watch.task.name, watch.oldest)
        return False
