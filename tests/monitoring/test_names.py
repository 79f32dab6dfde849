"""Metrics follow naming conventions and match their page in the docs."""

import runpy
from pathlib import Path

import pytest

from retrain.monitoring.names import GROUPS, Name

DOCS = Path(__file__).parents[2] / "docs"
NAMES = [name for group in GROUPS.values() for name in group]


def test_docs_list_every_metric_as_it_is() -> None:
    module = runpy.run_path(str(DOCS / "metrics.py"))
    assert (DOCS / "metrics.md").read_text() == module["page"](), "run `make docs`"


def test_names_are_given_once() -> None:
    assert len({name.name for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.name)
def test_names_follow_the_conventions(name: Name) -> None:
    assert name.name.startswith("retrain_")
    assert name.name.endswith("_total") == (name.kind == "counter")
    assert not {"run", "run_id", "job", "instance"} & set(name.labels)
    assert name.help.endswith(".")
