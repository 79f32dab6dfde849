"""The base class of records: frozen, keeping unknown fields, and with equal bytes if equal.

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
        """Return canonical JSON: keys are sorted, so equal records give equal bytes."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1).encode() + b"\n"


def parse_record(kind: type[R], data: bytes, where: str, error: type[UserError] = StoreError) -> R:
    """Return the record in the bytes of the object at `where`. Raises `error`, with that place, if there is none.

    The parts of a task in a record may have unknown fields. Task files may not.
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
    """Return the SHA-256, in hex, of the canonical JSON of an object."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
