"""The watcher's loop: look where something has landed, advance every task, and begin again."""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from retrain.errors import UserError
from retrain.store.locks import TaskLocked
from retrain.watcher.health import Health
from retrain.watcher.queue import LONGEST_WAIT, EventQueue, ReceivedEvents
from retrain.watcher.task_watch import TaskWatch

TURN_SECONDS = 20.0
"""Between turns where nothing lands: so late it may be seen that a run has ended and the next can begin."""
RETRY_SECONDS = 20.0
"""Until all is looked at again after that failed, or left something to another watcher."""

log = logging.getLogger("retrain")


class Watcher:
    """Watches tasks, none of which can stop the others. Everything may be cut at any point, by SIGKILL too.

    A queue says sooner where to look; every `poll_seconds` all is looked at anyway, for events get lost.
    """

    def __init__(
        self, watches: Sequence[TaskWatch], health: Health, poll_seconds: float, inbox: EventQueue | None
    ) -> None:
        self.health = health
        self._watches, self._poll_seconds, self._inbox = watches, poll_seconds, inbox
        self._next_poll = 0.0

    def run(self) -> None:
        """Go round until the process is told to stop."""
        next_turn = 0.0
        while True:
            self.health.alive()
            mail = self._receive(next_turn - time.monotonic())
            if mail.drops or time.monotonic() >= next_turn:
                self._turn(mail)
                next_turn = min(self._next_poll, time.monotonic() + TURN_SECONDS)
            else:
                self._delete(mail, failed=())

    def once(self) -> bool:
        """Go round once, with all that is in the queue; True if nothing failed, whatever others were at."""
        mail = ReceivedEvents([], {})
        while more := self._receive(0).messages:
            mail.messages.extend(more)
        self._turn(mail)
        return not self.health.problems()

    def _receive(self, wait: float) -> ReceivedEvents:
        wait = max(0.0, min(wait, LONGEST_WAIT))
        if self._inbox:
            return self._inbox.receive(wait)
        time.sleep(wait)
        return ReceivedEvents([], {})

    def _delete(self, mail: ReceivedEvents, failed: Collection[str]) -> None:
        """Delete each message whose own tasks could be looked at: a broken task keeps no other's events."""
        if self._inbox:
            self._inbox.delete(mail.settled(failed))

    def _turn(self, mail: ReceivedEvents) -> None:
        """Look, then advance; messages are done with in between, for a run may take hours."""
        looked = self._look(mail.drops)
        self._delete(mail, failed={watch.task.name for watch in self._watches if watch not in looked})
        advanced = [watch for watch in self._watches if self._advance(watch)]
        told = [watch for watch in self._watches if self._guarded(watch, watch.notify)]
        for watch in looked:
            if watch in advanced and watch in told:
                self.health.seen_to(watch.task.name)

    def _look(self, drops: Mapping[str, set[str]]) -> list[TaskWatch]:
        """Look at these drops of each task, or at all when it is time; return the watches that could."""
        everywhere = time.monotonic() >= self._next_poll
        wanted = {watch: None if everywhere else drops.get(watch.task.name, ()) for watch in self._watches}
        looked = [watch for watch, ids in wanted.items() if self._guarded(watch, partial(watch.look, ids))]
        if everywhere:
            pause = self._poll_seconds if len(looked) == len(wanted) else min(self._poll_seconds, RETRY_SECONDS)
            self._next_poll = time.monotonic() + pause
        return looked

    def _advance(self, watch: TaskWatch) -> bool:
        self.health.alive(working=True)
        advanced = self._guarded(watch, watch.advance)
        self.health.alive()
        return advanced

    def _guarded(self, watch: TaskWatch, step: Callable[[], None]) -> bool:
        try:
            step()
        except TaskLocked as busy:  # the other may fail yet, which is no failure of this one
            log.info("%s: %s", watch.task.name, busy)
            self.health.seen_to(watch.task.name)
        except UserError as error:
            log.warning("%s: %s", watch.task.name, error)
            self.health.failed(watch.task.name, str(error))
        except Exception as error:  # whatever is wrong with one task, the others are watched on
            log.exception("%s", watch.task.name)
            self.health.failed(watch.task.name, f"{type(error).__name__}: {error}")
        else:
            return True
        finally:
            self.health.waits_since(watch.task.name, watch.oldest)
        return False
