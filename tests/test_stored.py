"""A record that is damaged in the store is named, wherever it is read: no traceback, and no watcher that goes down."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import submissions
from retrain import registry
from retrain.errors import RunError
from retrain.layout import Layout
from retrain.run_records import RunRecords
from retrain.store import LocalStore, Store
from retrain.trigger.claims import Claims
from retrain.trigger.lease import held
from retrain.trigger.validations import counted

PETS = Layout("pets")


def claimed(store: Store) -> None:
    """Ask whose the claims are."""
    Claims(store, PETS).refresh()


def leased(store: Store) -> None:
    """Take the lease."""
    with held(store, PETS):
        pass


def validated(store: Store) -> None:
    """Begin a validation."""
    with counted(store, PETS, "d-1"):
        pass


READERS: list[tuple[str, Callable[[Store], object]]] = [
    (PETS.champion, lambda store: registry.read(store, PETS)),
    (PETS.lease, leased),
    (PETS.claim("d-1"), claimed),
    (PETS.validations("d-1"), validated),
    (PETS.submission("s-1"), lambda store: submissions.read(store, PETS, "s-1")),
    (PETS.run("r-1", "plan.json"), lambda store: RunRecords(store, PETS, "r-1").plan()),
    (PETS.run("r-1", "curve.jsonl"), lambda store: RunRecords(store, PETS, "r-1").curve()),
]


@pytest.mark.parametrize(("key", "read"), READERS, ids=[key for key, _ in READERS])
@pytest.mark.parametrize("data", [b"{", b'{"colour": "red"}', b"\xff"], ids=["torn", "other", "bytes"])
def test_a_damaged_record_is_named(key: str, read: Callable[[Store], object], data: bytes, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.write(key, data)
    with pytest.raises(RunError, match=f"{key} was not written by this version of retrain, or was damaged"):
        read(store)
