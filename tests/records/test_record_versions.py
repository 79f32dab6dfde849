"""The `schema_version` of a record is written and preserved. Records of versions after the next one are refused."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from support.histories import make_drop
from support.trainings import plan_of

from retrain.errors import RunError, StoreError
from retrain.records import Plan, Removed, parse_record
from retrain.records.base import RECORD_VERSION, unknown_fields
from retrain.records.drop import drop_digest, parse_manifest

REMOVED = Removed(run_id="scratch-1", at=datetime(2026, 1, 10, tzinfo=UTC), bytes=7)
NEXT = RECORD_VERSION + 1


def written(record: Removed | Plan, **changes: Any) -> bytes:
    """Return a record's bytes with other fields."""
    return json.dumps(json.loads(record.to_bytes()) | changes).encode()


def test_record_with_its_version_round_trips() -> None:
    data = REMOVED.to_bytes()
    assert json.loads(data)["schema_version"] == RECORD_VERSION
    read = parse_record(Removed, data, "removed.json")
    assert (read, read.to_bytes(), list(unknown_fields(read))) == (REMOVED, data, [])


def test_record_without_a_version_is_of_the_first_version() -> None:
    """Versions of `retrain` without this field wrote such records."""
    data = b'{\n "at": "2026-01-10T00:00:00Z",\n "bytes": 7,\n "run_id": "scratch-1"\n}\n'
    assert parse_record(Removed, data, "removed.json") == REMOVED


def test_rewritten_record_keeps_the_next_version() -> None:
    read = parse_record(Removed, written(REMOVED, schema_version=NEXT, of_a_later_version="x"), "removed.json")
    again = json.loads(read.model_copy(update={"bytes": 8}).to_bytes())
    assert again == json.loads(REMOVED.to_bytes()) | {
        "bytes": 8,
        "of_a_later_version": "x",
        "schema_version": NEXT,
    }


def test_version_does_not_change_a_plans_id() -> None:
    plan = plan_of()
    for version in (RECORD_VERSION, NEXT):
        read = parse_record(Plan, written(plan, schema_version=version), "plan.json")
        assert read.run_id == read.model_copy().run_id == plan.run_id


@pytest.mark.parametrize(
    "changes",
    [{"schema_version": NEXT + 1}, {"schema_version": NEXT, "at": {"of": "another kind"}}],
    ids=["two versions ahead", "next version with another field"],
)
def test_error_on_a_later_record_advises_an_upgrade(changes: dict[str, Any]) -> None:
    """The error is a `StoreError` and not a `RunError`. The run is then retried, because an upgrade repairs it."""
    message = (
        f"removed.json was written by a later version .* schema_version {changes['schema_version']}, and retrain .*"
    )
    with pytest.raises(StoreError, match=f"^{message} writes {RECORD_VERSION}. Upgrade"):
        parse_record(Removed, written(REMOVED, **changes), "removed.json", RunError)


@pytest.mark.parametrize("version", [0, -1, "two", None, [1]])
def test_record_without_a_valid_version_is_damaged(version: object) -> None:
    with pytest.raises(RunError, match=r"removed.json was not written by this version .*damaged: schema_version"):
        parse_record(Removed, written(REMOVED, schema_version=version), "removed.json", RunError)


def test_manifest_has_no_version() -> None:
    """A manifest's digest covers every field, including fields that a version of `retrain` does not know."""
    drop = make_drop("week-45", 1, ("cat", "dog"))
    drop = drop.model_copy(update={"digest": drop_digest(drop)})
    assert "schema_version" not in json.loads(drop.to_bytes())
    assert parse_manifest(drop.to_bytes()) == drop
