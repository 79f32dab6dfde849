"""What all records have in common: frozen, refusing unknown fields, equal as bytes when equal."""

import hashlib
import json

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A frozen record that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, so equal records are equal bytes."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1).encode() + b"\n"


def digest(content: object) -> str:
    """SHA-256, in hex, of a JSON-able object's canonical form."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
