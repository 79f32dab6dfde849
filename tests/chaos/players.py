"""Processes that live a life: started at once, killed at random moments, started again until what they do is done."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from random import Random
from threading import Lock
from typing import NoReturn

from support.processes import forkserver

from chaos.acts import NOT_NOW, play
from chaos.place import Place
from retrain.store import ObjectStore, open_store

PATIENCE = 300.0
"""Seconds after which an act is taken to hang."""
ATTEMPTS = 40
"""Starts of one act, the store failing or processes being killed under it."""
UNKNOWN = 255
"""Exit code where `start` in one thread read that of a process which another thread waits for."""
CONTEXT = forkserver()
STARTING = Lock()


class Failed(Exception):
    """An act ended as none may: without a sentence, or not at all."""


@dataclass
class Cast:
    """Starts the processes of one life, and counts what is done to them."""

    place: Place
    random: Random
    broken: str | None
    server: str
    """The S3 server's own address, past the proxy that the processes speak to."""
    faults: Counter[str] = field(default_factory=Counter)

    def store(self) -> ObjectStore:
        """The store, where nothing fails."""
        return open_store(self.place.url, self.server)

    def start(self, act: Callable[..., None], *arguments: object) -> ForkServerProcess:
        """Start an act."""
        process = CONTEXT.Process(target=play, args=(act, self.place, self.broken, *arguments))
        with STARTING:  # the fork server takes one request at a time
            process.start()
        return process

    def kill(self, process: ForkServerProcess, within: float) -> bool:
        """Kill a process, or ask it to leave, at a random moment; False: it had ended before."""
        process.join(self.random.uniform(0, within))
        if process.exitcode is not None:
            return False
        name = self.random.choice(["SIGKILL", "SIGTERM"])
        sent = _send(process, name)
        self.faults[name] += sent
        return sent

    def end(self, process: ForkServerProcess) -> bool:
        """Wait for a process; say whether it did what it was for. Raises `Failed` where it should not have ended so."""
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            self.fail(f"{process.name} hangs")
        may_be = (0, NOT_NOW, os.EX_TEMPFAIL, -signal.SIGKILL, -signal.SIGTERM, UNKNOWN)
        if process.exitcode not in may_be or Path(self.place.folder, "tracebacks").exists():
            self.fail(f"exit code {process.exitcode}")
        return process.exitcode == 0

    def fail(self, what: str) -> NoReturn:
        """Raise `Failed`, with what the processes left in writing."""
        notes = self.place.folder / "tracebacks"
        raise Failed(f"{what}: {notes.read_text() if notes.exists() else 'nothing in writing'}")

    def see_through(self, act: Callable[..., None], *arguments: object, kills: int = 0, within: float = 1.0) -> None:
        """Start an act again until it is done, and kill it on the way."""
        for attempt in range(ATTEMPTS):
            process = self.start(act, *arguments)
            if attempt < kills:
                self.kill(process, within)
            if self.end(process):
                return
        self.fail(f"{act.__name__} was not done after {ATTEMPTS} starts")

    def together(self, *acts: tuple[Callable[..., None], *tuple[object, ...]]) -> None:
        """Start acts at once, and see each through."""
        processes = [self.start(*act) for act in acts]
        self.faults["racing process"] += len(acts) - 1
        for process, act in zip(processes, acts, strict=True):
            if not self.end(process):
                self.see_through(*act)

    def freeze(self, process: ForkServerProcess, after: float, seconds: float) -> None:
        """Stop a process for so long, then let it go on as if no time had passed."""
        process.join(after)
        if process.exitcode is None and _send(process, "SIGSTOP"):
            time.sleep(seconds)
            self.faults["frozen process"] += _send(process, "SIGCONT")


def _send(process: ForkServerProcess, name: str) -> bool:
    """Send a signal; False: the process has just ended."""
    try:
        os.kill(process.pid or 0, signal.Signals[name])
    except ProcessLookupError:
        return False
    return True
