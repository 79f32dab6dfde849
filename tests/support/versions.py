"""Read stores of earlier versions of `retrain`, and write records with extra fields as a later version would."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from retrain.records.base import RECORD_VERSION


class Golden(NamedTuple):
    """An archive with a task file and its store, and the ids of three runs.

    The store has three drops, two champions, and a run that was killed at its sixth iteration and has a checkpoint of
    the fifth.
    """

    archive: Path
    scratch: str
    champion: str
    unfinished: str


FOLDER = Path(__file__).parents[1] / "store" / "golden"
GOLDEN = {
    "0.1.0": Golden(
        FOLDER / "0.1.0.tar.xz", "scratch-04c17bf21140", "continuous-c5c3231b7ed5", "continuous-fc5a75a094fb"
    ),
    "0.2.0": Golden(
        FOLDER / "0.2.0.tar.xz", "scratch-faa0c68d488b", "continuous-f56afb8283d6", "continuous-334871d6a97f"
    ),
}
"""Stores by the version of `retrain` that wrote them. Commit b3a29da wrote the store of 0.1.0. `write.py` wrote the
later stores."""
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
    "not_samples",
    "options",
    "pod_labels",
    "reached_at",
    "sample_list",
    "shards",
    "speed_up",
    "stage_seconds",
}
"""Fields that get no extra field: mappings with arbitrary keys, and `shards` and `sample_list`. The drop's digest
covers the fields of these two."""


def with_later_fields(value: object) -> object:
    """Return JSON with one extra field in each object that is not the value of a field in `FREE`."""
    if isinstance(value, list):
        return [with_later_fields(item) for item in value]
    if isinstance(value, dict):
        return {name: item if name in FREE else with_later_fields(item) for name, item in value.items()} | LATER
    return value


def write_as_a_later_version(*stores: type[Any]) -> None:
    """Make this process write extra fields and the next `schema_version` into records, as a later version would.

    Leases are not changed. Manifests are not changed either, because their digest covers every field.
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
