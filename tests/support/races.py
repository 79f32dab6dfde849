"""Let processes race for the same objects of a store. Each process opens the store itself."""

import os
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from typing import TypeVar

from retrain.errors import RunError
from retrain.store import Conflict, champions, open_store
from retrain.store.task_store import TaskStore
from support.processes import forkserver

PROCESSES = 4
MANY = 16

Outcome = TypeVar("Outcome")
START: list[Barrier] = []
"""Barrier at which the processes of a race wait for each other."""


def race(
    contestant: Callable[[str, str | None, int], Outcome],
    url: str,
    endpoint_url: str | None,
    processes: int = PROCESSES,
) -> list[Outcome]:
    """Run a function in several processes that start together. Each process gets its number. Return their results."""
    context = forkserver()
    barrier = context.Barrier(processes)
    with context.Pool(processes, initializer=_start_together, initargs=(barrier, dict(os.environ))) as pool:
        return pool.starmap(contestant, [(url, endpoint_url, number) for number in range(processes)], chunksize=1)


def _start_together(barrier: Barrier, environment: dict[str, str]) -> None:
    os.environ.update(environment)  # the fork server still has the environment of its start
    START.append(barrier)
    _wait_for_all()


def _wait_for_all() -> None:
    START[0].wait(timeout=240)


def claim_all(url: str, endpoint_url: str | None, number: int) -> list[str]:
    """Try to create the same twenty claims as all other processes, and return the claims that this process won."""
    store = open_store(url, endpoint_url)
    won = []
    for key in (f"claims/{index}" for index in range(20)):
        try:
            store.create(key, b"%d" % number)
        except Conflict:
            continue
        won.append(key)
    return won


def count_up(url: str, endpoint_url: str | None, number: int) -> int:
    """Increment `counter` twenty times by compare-and-swap, and return the number of attempts."""
    store = open_store(url, endpoint_url)
    attempts = done = 0
    while done < 20:
        attempts += 1
        data, version = store.read("counter")
        count = int(data.split()[0])
        if attempts == 1:
            _wait_for_all()  # all have now read the same version, so only one write succeeds
        try:
            store.replace("counter", b"%d %d.%d" % (count + 1, number, attempts), version)
        except Conflict:
            continue
        done += 1
    return attempts


def promote_itself(url: str, endpoint_url: str | None, number: int) -> None:
    """Promote `run-<number>`. Retry if another process was faster."""
    store = TaskStore(open_store(url, endpoint_url), "pets")
    while True:
        try:
            store.champion.swap(store.champion.read(), f"run-{number}", "promoted")
        except Conflict:
            continue
        return


def promote_or_roll_back(url: str, endpoint_url: str | None, number: int) -> None:
    """Promote `run-<number>` if the number is even; otherwise roll back five times."""
    store = TaskStore(open_store(url, endpoint_url), "pets")
    if number % 2 == 0:
        promote_itself(url, endpoint_url, number)
        return
    done = 0
    while done < 5:
        seen = store.champion.read()
        try:
            assert seen.champion
            store.champion.promote_manually(seen, champions.rollback_target(seen.champion), "rolled back")
        except RunError:  # another process was faster, or there is nothing to roll back to
            continue
        done += 1
