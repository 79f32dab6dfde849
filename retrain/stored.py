"""Records as they lie in a store, with their versions."""

from typing import TypeVar

from retrain.errors import StoreError, UserError
from retrain.records import Record, parsed
from retrain.store.base import Store

R = TypeVar("R", bound=Record)


def read_record(store: Store, key: str, kind: type[R], damaged: type[UserError] = StoreError) -> tuple[R, str]:
    """Return a record and its version. Raises `Missing`, and `damaged`, naming the object, if it is no such record."""
    data, version = store.read(key)
    return parsed(kind, data, f"{store.url}/{key}", damaged), version
