"""The checkpoints of a run in the store. Only the newest two are kept. A checkpoint's name contains its digest."""

import hashlib
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from retrain.store.base import Entry, Missing, ObjectStore
from retrain.store.keys import TaskKeys

log = logging.getLogger("retrain")

KEEP_NEWEST = 2


class Checkpoints:
    """The checkpoints of one run, `state/<iteration>-<digest>.safetensors`, written during training.

    It is a context manager. Leaving it waits until the last checkpoint is in the store. If writing a checkpoint fails,
    the next call of a method, or the end of the context, raises the error.
    """

    def __init__(self, objects: ObjectStore, keys: TaskKeys, run_id: str) -> None:
        self._objects, self.prefix = objects, keys.run(run_id, "state/")
        self._writer = ThreadPoolExecutor(1, "checkpoints")
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown()
        self._wait()

    def save(self, iteration: int, state: bytes) -> None:
        """Write a checkpoint in a thread, after the previous one is written. Only the newest two are kept."""
        self._wait()
        self._writing = self._writer.submit(self._write, iteration, state)

    def load(self) -> bytes | None:
        """Return the newest checkpoint that matches its digest, or None. Remove and log the others."""
        for entry in self._newest_first():
            try:
                state, _ = self._objects.read(entry.key)
            except Missing:
                continue
            if entry.key.endswith(f"-{_digest(state)}.safetensors"):
                return state
            log.warning(
                "%s/%s: this checkpoint is damaged, so it is removed. The run resumes from the one before it. If there "
                "is none, the run starts again from the beginning",
                self._objects.url,
                entry.key,
            )
            self._objects.delete(entry.key)
        return None

    def iteration(self) -> int:
        """Return the newest checkpoint's iteration, or 0 if there is none."""
        newest = next(iter(self._newest_first()), None)
        return int(newest.key.removeprefix(self.prefix).partition("-")[0]) if newest else 0

    def clear(self) -> None:
        """Remove all checkpoints, because the run has ended."""
        self._wait()
        for entry in self._newest_first():
            self._objects.delete(entry.key)

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def _write(self, iteration: int, state: bytes) -> None:
        self._objects.write(f"{self.prefix}{iteration:012d}-{_digest(state)}.safetensors", state)
        for entry in self._newest_first()[KEEP_NEWEST:]:
            self._objects.delete(entry.key)

    def _newest_first(self) -> list[Entry]:
        return sorted(self._objects.list(self.prefix), key=lambda entry: entry.key, reverse=True)


def _digest(state: bytes) -> str:
    return hashlib.sha256(state).hexdigest()[:32]
