"""What all records have in common: frozen, keeping unknown fields, equal as bytes when equal.

Records are JSON objects in the store. They are parsed from bytes that may be damaged, or that another version of
retrain wrote: fields that a later version added are kept and otherwise ignored.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from retrain.errors import StoreError, UserError

R = TypeVar("R", bound="Record")


class Record(BaseModel):
    """A frozen record that keeps the fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, so equal records are equal bytes."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1).encode() + b"\n"


def parse_record(kind: type[R], data: bytes, where: str, error: type[UserError] = StoreError) -> R:
    """Return the record that an object at `where` holds. Raises `error`, naming the place, if it holds none.

    Parts of a task within it may have unknown fields too, which task files may not.
    """
    try:
        return kind.model_validate_json(data, extra="allow")
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        what = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
        raise error(f"{where} was not written by this version of retrain, or was damaged: {what}") from invalid


def unknown_fields(value: object, path: str = "") -> Iterator[str]:
    """Yield the dotted paths of all fields, at any depth, that were read without being known."""
    if isinstance(value, BaseModel):
        yield from (f"{path}{name}" for name in value.model_extra or {})
        for name in type(value).model_fields:
            yield from unknown_fields(getattr(value, name), f"{path}{name}.")
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from unknown_fields(item, f"{path}{number}.")


def digest(content: object) -> str:
    """SHA-256, in hex, of a JSON-able object's canonical form."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
