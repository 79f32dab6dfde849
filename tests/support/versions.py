"""A store that an earlier version of `retrain` wrote, and records as a later one would: with a field more."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parents[1] / "store" / "golden" / "b3a29da.tar.xz"
"""What commit b3a29da wrote: a task file, and its store with three drops, two champions, and a run that was killed at
its sixth step, whose checkpoint was written after the fifth."""
LATER = {"of_a_later_version": None}
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
"""Fields whose objects have free keys; and a manifest's shards, whose digest covers every field."""


def with_later_fields(value: object) -> object:
    """Return JSON in which each object has one field more, except where keys are free."""
    if isinstance(value, list):
        return [with_later_fields(item) for item in value]
    if isinstance(value, dict):
        return {name: item if name in FREE else with_later_fields(item) for name, item in value.items()} | LATER
    return value


def write_as_a_later_version(*stores: type[Any]) -> None:
    """Let this process write all records but manifests, whose digest covers every field, as a later version would."""
    for store in stores:
        for name in ("create", "replace", "write"):
            setattr(store, name, _with_later_fields(getattr(store, name)))


def _with_later_fields(method: Callable[..., Any]) -> Callable[..., Any]:
    def write(store: Any, key: str, data: bytes, *arguments: Any) -> Any:
        if key.endswith(".json") and not key.endswith(("/drop.json", "lease.json")):
            data = json.dumps(with_later_fields(json.loads(data))).encode()
        return method(store, key, data, *arguments)

    return write
