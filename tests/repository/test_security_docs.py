"""Every measure in docs/security.md names tests that exist."""

import ast
import re

from support.rendered import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()


def test_every_measure_names_tests_that_exist() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 10
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for path, name in named:
            functions = {node.name for node in ast.parse((ROOT / path).read_text()).body if hasattr(node, "name")}
            assert name in functions, f"{path}::{name}"
