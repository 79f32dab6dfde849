"""Grafana's dashboards match Grafana's own schema for dashboards, panels and queries."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from retrain.monitoring.dashboards.__main__ import FILES

FOLDER = Path(__file__).parents[2] / "charts" / "retrain" / "dashboards"


def changed_fields(given: Any, read: Any, path: str = "") -> Iterator[str]:
    """Yield the path of each field that Grafana's types change or drop."""
    if isinstance(given, dict) and isinstance(read, dict):
        for key, value in given.items():
            yield from changed_fields(value, read.get(key), f"{path}.{key}")
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        for number, (one, other) in enumerate(zip(given, read, strict=True)):
            yield from changed_fields(one, other, f"{path}[{number}]")
    elif given != read:
        yield path


def read(document: dict[str, Any]) -> Any:
    """Return the document after Grafana's types have read and written it."""
    register_default_plugins()
    return json.loads(JSONEncoder().encode(Dashboard.from_json(document)))


@pytest.mark.parametrize("file", FILES)
def test_grafanas_schema_preserves_all_fields_of_a_dashboard(file: str) -> None:
    document = json.loads((FOLDER / file).read_text())
    assert list(changed_fields(document, read(document))) == []


@pytest.mark.parametrize("place", ["options", "fieldConfig", "targets"])
def test_schema_check_finds_an_unknown_field(place: str) -> None:
    document = json.loads((FOLDER / "compute-savings.json").read_text())
    part = document["panels"][1][place]
    (part[0] if place == "targets" else part)["graphMood"] = "area"
    assert [path.rpartition(".")[2] for path in changed_fields(document, read(document))] == ["graphMood"]
