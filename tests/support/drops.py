"""Manifests of small drops."""

from datetime import UTC, datetime, timedelta

from retrain.records import Drop
from retrain.records.drop import drop_digest


def make_drop(drop_id: str, minute: int, classes: tuple[str, ...] = ("cat",)) -> Drop:
    """Return the manifest of a drop committed at this minute, ten training samples a class."""
    drop = Drop(
        id=drop_id,
        task="pets",
        classes=classes,
        shards=(),
        counts={"train": dict.fromkeys(classes, 10), "val": {}, "test": {}},
        held_out={"val": 0.1},
        digest="",
        committed_at=datetime(2026, 11, 1, tzinfo=UTC) + timedelta(minutes=minute),
    )
    return drop.model_copy(update={"digest": drop_digest(drop)})
