"""Write docs/schemas/: the JSON schema of each command's output with --json."""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from retrain.doctor import Finding
from retrain.pipeline.status import Status
from retrain.records import Approval, Drift, Drop, Erasure, Plan, Retention, RunRecord
from retrain.records.base import Record

DOCS = Path(__file__).parent


class Sent(Record):
    """Output of `retrain run --on kubeflow`: the run, and its name in Kubeflow."""

    run_id: str
    id: str
    state: str | None
    new: bool


PRINTED: dict[str, Any] = {
    "retrain run": RunRecord | Plan | Sent | Approval | None,
    "retrain baseline": RunRecord | None,
    "retrain status": Status,
    "retrain history": list[RunRecord],
    "retrain show": RunRecord,
    "retrain gc": list[Retention],
    "retrain doctor": list[Finding],
    "retrain drop list": list[Drop],
    "retrain drop show": Drop,
    "retrain drop drift": list[Drift],
    "retrain drop erase": Erasure | list[Erasure],
}
"""Types of the commands' outputs. `retrain run` prints a record. With --dry-run it prints a plan, and on Kubeflow the
submitted run. It prints null if nothing has landed, and an approval if a candidate awaits one."""


def file_of(command: str) -> str:
    """Return the name of a command's schema, relative to docs/."""
    return f"schemas/{command.removeprefix('retrain ').replace(' ', '-')}.json"


def schema(command: str) -> str:
    """Return a command's schema as JSON text."""
    document = TypeAdapter(PRINTED[command]).json_schema(mode="serialization")
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **document}, indent=1) + "\n"


if __name__ == "__main__":
    (DOCS / "schemas").mkdir(exist_ok=True)
    for printing in PRINTED:
        (DOCS / file_of(printing)).write_text(schema(printing))
