"""Run the processes of a scenario. They are killed at random writes, and restarted until they are done."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from random import Random
from threading import Lock
from typing import NoReturn

from support.processes import forkserver
from support.writes import Strike, is_stopped

from chaos.actions import REPEATABLE, perform
from chaos.environment import KEYS, Environment
from retrain.store import ObjectStore, open_store
from retrain.store.task_store import TaskStore

PATIENCE = 300.0
"""Seconds after which an action counts as hanging."""
ATTEMPTS = 40
"""Largest number of starts of one action. Its store may fail, or its process may be killed."""
UNKNOWN = 255
"""Exit code of a process if another thread waited for it first."""
CONTEXT = forkserver()
STARTING = Lock()


class Failed(Exception):
    """The error of a scenario in which an action ended in an unexpected way, or did not end."""


@dataclass
class Runner:
    """The processes of one scenario, and the counts of their faults."""

    environment: Environment
    random: Random
    broken: str | None
    server: str
    """The address of the S3 server itself. The processes use a proxy in front of it."""
    faults: Counter[str] = field(default_factory=Counter)

    def store(self) -> ObjectStore:
        """Return the store without injected faults."""
        return open_store(self.environment.url, self.server)

    def start(self, action: Callable[..., None], *arguments: object, strike: Strike | None = None) -> ForkServerProcess:
        """Start an action in a process that may get a signal at one of its writes."""
        process = CONTEXT.Process(target=perform, args=(action, self.environment, self.broken, strike, *arguments))
        with STARTING:  # the fork server takes one request at a time
            process.start()
        return process

    def strikes(self, writes: int, count: int) -> Iterator[Strike]:
        """Yield up to `count` signals, SIGKILL or SIGTERM, each at a random write of an action with `writes` writes."""
        for _ in range(count):
            if writes < 1:
                return
            strike = Strike(self.random.choice(["SIGKILL", "SIGTERM"]), self.random.randint(1, writes))
            yield strike
            writes -= strike.write

    def struck(self, process: ForkServerProcess, strike: Strike | None) -> bool:
        """Return whether an ended process received its signal, and count the signal."""
        struck = strike is not None and process.exitcode in (os.EX_TEMPFAIL, -signal.SIGKILL, -signal.SIGTERM)
        if strike and struck:
            self.faults[strike.signal] += 1
        return struck

    def writes(self, action: Callable[..., None]) -> int:
        """Return the number of writes in the first execution of an action."""
        return next(count for name, count in self._writes() if name == action.__name__)

    def last_writes(self) -> int:
        """Return the number of writes of the last action."""
        return self._writes()[-1][1]

    def _writes(self) -> list[tuple[str, int]]:
        lines = (self.environment.folder / "writes").read_text().splitlines()
        return [(name, int(count)) for name, count in map(str.split, lines)]

    def end(self, process: ForkServerProcess) -> bool:
        """Wait for a process, and return whether it succeeded. Raises `Failed` if it ended in an unexpected way."""
        process.join(PATIENCE)
        if process.exitcode is None:
            self.fail(f"{process.name} hangs, {self._show_hang(process)}")
        may_be = (0, REPEATABLE, os.EX_TEMPFAIL, -signal.SIGKILL, -signal.SIGTERM, UNKNOWN)
        if process.exitcode not in may_be or Path(self.environment.folder, "tracebacks").exists():
            self.fail(f"exit code {process.exitcode}")
        return process.exitcode == 0

    def _show_hang(self, process: ForkServerProcess) -> str:
        """Kill a process, and return the stacks of its threads and the state of the task's runs."""
        assert process.pid is not None
        os.kill(process.pid, signal.SIGUSR1)  # the handler that `perform` sets writes the stacks
        process.join(1)
        process.kill()
        store = TaskStore(self.store(), KEYS.task)
        claims = store.claims()
        claims.refresh()
        stacks = Path(self.environment.folder, "hangs").read_text()
        return f"with {len(store.ledger.read())} records and {claims.in_flight()} in flight: {stacks}"

    def fail(self, what: str) -> NoReturn:
        """Raise `Failed` with the tracebacks of the processes."""
        log = self.environment.folder / "tracebacks"
        raise Failed(f"{what}: {log.read_text() if log.exists() else 'no traceback'}")

    def repeat_until_done(
        self, action: Callable[..., None], *arguments: object, strikes: Sequence[Strike] = ()
    ) -> None:
        """Restart an action until it is done. Each of its first starts gets one signal."""
        for attempt in range(ATTEMPTS):
            strike = strikes[attempt] if attempt < len(strikes) else None
            process = self.start(action, *arguments, strike=strike)
            done = self.end(process)
            self.struck(process, strike)
            if done:
                return
        self.fail(f"{action.__name__} was not done after {ATTEMPTS} starts")

    def run_together(self, *actions: tuple[Callable[..., None], *tuple[object, ...]]) -> None:
        """Start actions at the same time, and restart each until it is done.

        Restarted actions do not wait for the other actions.
        """
        processes = [self.start(*action) for action in actions]
        self.faults["racing process"] += len(actions) - 1
        for process, (action, *arguments) in zip(processes, actions, strict=True):
            if not self.end(process):
                self.repeat_until_done(action, *(each for each in arguments if not isinstance(each, Barrier)))

    def continue_later(self, process: ForkServerProcess, seconds: float) -> None:
        """Wait until a process has stopped itself, then continue it after this time."""
        while process.exitcode is None and not is_stopped(process.pid):
            process.join(0.01)
        if process.exitcode is None:
            time.sleep(seconds)
            self.faults["frozen process"] += _send(process, "SIGCONT")


def _send(process: ForkServerProcess, name: str) -> bool:
    """Send a signal. Return False if the process has just ended."""
    try:
        os.kill(process.pid or 0, signal.Signals[name])
    except ProcessLookupError:
        return False
    return True
