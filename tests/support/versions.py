"""A store written by an earlier version of `retrain`, and records as a later version would write: with extra fields."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from retrain.records.base import RECORD_VERSION

GOLDEN = Path(__file__).parents[1] / "store" / "golden" / "b3a29da.tar.xz"
"""A task file and its store, written by commit b3a29da. The store has three drops, two champions, and a run that was
killed at its sixth iteration and has a checkpoint of the fifth."""
LATER = {"of_a_later_version": None}
"""A field that this version does not know."""
NEXT_VERSION = {"schema_version": RECORD_VERSION + 1}
"""The version of the records that a later version writes."""
FREE = {
    "aliases",
    "baseline_reached_at",
    "by_class",
    "counts",
    "held_out",
    "node_selector",
    "options",
    "pod_labels",
    "reached_at",
    "speed_up",
    "stage_seconds",
    "shards",
}
"""Fields that get no extra field: mappings with arbitrary keys, and `shards`, whose digest covers every field."""


def with_later_fields(value: object) -> object:
    """Return JSON with one extra field in each object that is not the value of a field in `FREE`."""
    if isinstance(value, list):
        return [with_later_fields(item) for item in value]
    if isinstance(value, dict):
        return {name: item if name in FREE else with_later_fields(item) for name, item in value.items()} | LATER
    return value


def write_as_a_later_version(*stores: type[Any]) -> None:
    """Make this process write extra fields and the next version into records, as a later version would.

    Leases have none, nor do manifests, whose digest covers every field.
    """
    for store in stores:
        for name in ("create", "replace", "write"):
            setattr(store, name, _with_later_fields(getattr(store, name)))


def _with_later_fields(method: Callable[..., Any]) -> Callable[..., Any]:
    def write(store: Any, key: str, data: bytes, *arguments: Any) -> Any:
        if key.endswith(".json") and not key.endswith(("/drop.json", "lease.json")):
            data = json.dumps(with_later_fields(json.loads(data) | NEXT_VERSION)).encode()
        return method(store, key, data, *arguments)

    return write
