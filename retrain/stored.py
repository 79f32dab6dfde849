"""Records as they lie in a store: JSON that another version of retrain may have written, or somebody damaged."""

from typing import TypeVar

from pydantic import ValidationError

from retrain.errors import RunError
from retrain.records import Record
from retrain.store.base import Store

R = TypeVar("R", bound=Record)


def read_record(store: Store, key: str, kind: type[R]) -> tuple[R, str]:
    """Return a record and its version. Raises `Missing`, and `RunError` if it is no such record."""
    data, version = store.read(key)
    return parse(data, kind, f"{store.url}/{key}"), version


def parse(data: bytes, kind: type[R], where: str) -> R:
    """Return the record that the bytes hold. Raises `RunError`, naming `where`, if they hold none."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        what = error.errors()[0]["msg"]
        raise RunError(f"{where} was not written by this version of retrain, or was damaged: {what}") from error
