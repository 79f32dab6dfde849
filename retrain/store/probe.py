"""Whether a store can be trusted in a race: some S3-compatible servers ignore the conditions of conditional writes."""

from collections.abc import Callable
from uuid import uuid4

from retrain.errors import StoreError
from retrain.store.base import Conflict, Store


def probe_conditional_writes(store: Store) -> None:
    """Try both conditions on a passing object. Meant for once, before a champion is swapped.

    Raises `StoreError` if the store overwrites what `create` or `replace` must not touch, or refuses a `replace` that
    it should accept.
    """
    key = f"probe-{uuid4().hex}"
    try:
        first = store.create(key, b"first")
        _must_conflict(store, "If-None-Match", lambda: store.create(key, b"second"))
        store.replace(key, b"second", first)
        _must_conflict(store, "If-Match", lambda: store.replace(key, b"third", first))
    finally:
        store.delete(key)


def _must_conflict(store: Store, condition: str, write: Callable[[], str]) -> None:
    try:
        write()
    except Conflict:
        return
    raise StoreError(
        f"{store.url}: the server ignores {condition}, so two runs could both become champion. Use a server that "
        "honours conditional writes, as AWS does."
    )
