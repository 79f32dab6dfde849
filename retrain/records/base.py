"""The base class of records. Records are frozen and keep unknown fields. Equal records have equal bytes.

Records are JSON objects in the store. They are parsed from bytes that may be damaged, or that another version of
retrain wrote. Fields that a later version added are kept and otherwise ignored. `docs/store.md` states what a reader
does with the `schema_version` of a record.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from retrain import __version__
from retrain.errors import StoreError, UserError

R = TypeVar("R", bound="Record")

RECORD_VERSION = 1
"""The `schema_version` of the records that this version writes. It rises with each change after which an earlier
version would misunderstand a record. A new field that may be ignored is no such change."""


class _Header(BaseModel):
    """The version of a record. Records of retrain 0.1 have none."""

    schema_version: PositiveInt = 1


class Record(BaseModel):
    """A frozen record. It keeps fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    def to_bytes(self) -> bytes:
        """Return canonical JSON with the record's `schema_version`.

        If a later version wrote the record, its `schema_version` is kept.
        """
        return canonical_json({"schema_version": RECORD_VERSION, **self.model_dump(mode="json")})


def canonical_json(content: object) -> bytes:
    """Return JSON with sorted keys: equal records give equal bytes."""
    return json.dumps(content, sort_keys=True, indent=1).encode() + b"\n"


def parse_record(kind: type[R], data: bytes, where: str, error: type[UserError] = StoreError) -> R:
    """Return the record in the bytes of the object at `where`.

    Raises `error`, with `where` in its message, if the bytes are not such a record.

    The parts of a task in a record may have unknown fields. Task files may not. A record of the next `schema_version`
    is read if it has the known fields. Otherwise this raises `StoreError` with the advice to upgrade, as for all later
    versions.
    """
    try:
        record = kind.model_validate_json(data, extra="allow")
        unknown = record.model_extra or {}
        version = _Header.model_validate(unknown).schema_version
    except ValidationError as invalid:
        with suppress(ValidationError):
            _refuse_later(_Header.model_validate_json(data).schema_version, RECORD_VERSION, where)
        first = invalid.errors(include_url=False)[0]
        what = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
        raise error(f"{where} was not written by this version of retrain, or was damaged: {what}") from invalid
    _refuse_later(version, RECORD_VERSION + 1, where)
    if version <= RECORD_VERSION:
        unknown.pop("schema_version", None)
    return record


def _refuse_later(version: int, newest: int, where: str) -> None:
    if version > newest:
        raise StoreError(
            f"{where} was written by a later version of retrain: it has schema_version {version}, and retrain "
            f"{__version__} writes {RECORD_VERSION}. Upgrade retrain here"
        )


def unknown_fields(value: object, path: str = "") -> Iterator[str]:
    """Yield the dotted paths of all unknown fields that were read, at any depth."""
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
