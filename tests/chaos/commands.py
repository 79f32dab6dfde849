"""Run the commands that the users of a long scenario enter. Each command runs in a separate process. This process may
be killed and restarted.

After a restart, an action first checks whether it was already done. A person whose connection broke would do the same.
"""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Literal

from support.versions import write_as_a_later_version

from chaos.actions import LEASE_SECONDS
from chaos.environment import Environment
from retrain.cli import main
from retrain.errors import StoreError
from retrain.pipeline import cache_retention, retention
from retrain.store import LocalStore
from retrain.store.s3.store import S3Store
from retrain.utils.clock import utc_now

NOTHING_FAILED = (0, 1, 3)
"""Exit codes of a successful command. It also succeeds if a candidate was refused or awaits approval."""
BY_HAND = ("--yes", "--author", "ann")


def command(environment: Environment, *words: str, is_later: bool = False) -> str:
    """Run a command of `retrain` on the task, and return its output."""
    if is_later:
        write_as_a_later_version(LocalStore, S3Store)
    settings = [part for setting in environment.address() for part in ("--set", setting)]
    sys.argv = ["retrain", "--quiet", *words, "--task", str(environment.file), *settings]
    printed = StringIO()
    try:
        with redirect_stdout(printed):
            main()
    except SystemExit as end:
        if end.code not in (None, *NOTHING_FAILED):
            raise
    return printed.getvalue()


def pack(environment: Environment, drop: str, is_later: bool) -> None:
    """Run `retrain drop pack`."""
    command(environment, "drop", "pack", str(environment.source(drop)), "--id", drop, is_later=is_later)


def amend(environment: Environment, corrections: str, is_later: bool) -> None:
    """Run `retrain drop amend`."""
    command(environment, "drop", "amend", corrections, is_later=is_later)


def erase(environment: Environment, sequence: int, drop: str, keys: Sequence[str]) -> None:
    """Run `retrain drop erase`. If it was interrupted, run it again without samples to complete it."""
    begun = len(environment.context().store.erasures.read()) >= sequence
    chosen = [] if begun else ["--drop", drop, *(part for key in keys for part in ("--key", key))]
    command(environment, "drop", "erase", "--reason", f"request {sequence}", *BY_HAND, *chosen)


def decide(environment: Environment, verb: Literal["approve", "reject"], run: str, is_later: bool) -> None:
    """Run `retrain approve` or `reject`, unless the candidate has a record."""
    if environment.context().store.ledger.find(run) is None:
        command(environment, verb, run, "--reason", f"{verb} it", *BY_HAND[1:], is_later=is_later)


def promote(environment: Environment, sequence: int, run: str, is_later: bool) -> None:
    """Run `retrain promote`, unless the champion's history already has `sequence` entries."""
    if _entries(environment) < sequence:
        command(environment, "promote", run, "--reason", "better in the shop", *BY_HAND, is_later=is_later)


def roll_back(environment: Environment, sequence: int, is_later: bool) -> None:
    """Run `retrain rollback`, unless the champion's history already has `sequence` entries."""
    if _entries(environment) < sequence:
        command(environment, "rollback", "--reason", "complaints", *BY_HAND, is_later=is_later)


def _entries(environment: Environment) -> int:
    champion = environment.context().store.champion.read().champion
    return len(champion.history) if champion else 0


def calibrate(environment: Environment, is_later: bool) -> None:
    """Run `retrain baseline`."""
    command(environment, "baseline", is_later=is_later)


def collect(environment: Environment, keep_last: int) -> None:
    """Run `retrain gc` on runs of any age and on the whole cache.

    It keeps files that were used within the last minute.
    """
    with environment.context().store.lock(seconds=LEASE_SECONDS) as locked:
        found = retention.plan_removal(locked, keep_last, timedelta(0), utc_now())
        retention.remove(locked, found, utc_now())
    cache_retention.remove(environment.cache, (), timedelta(0), utc_now())


def write_output(environment: Environment, file: str, *words: str) -> None:
    """Write the output of a command into a file of the scenario's folder."""
    printed = command(environment, *words)
    if not printed:
        raise StoreError(f"retrain {' '.join(words)} printed nothing")
    Path(environment.folder, file).write_text(printed)
