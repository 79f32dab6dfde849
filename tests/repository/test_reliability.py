"""The page on reliability names tests that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
TESTS = "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("*.py")))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", PAGE))))
def test_test_that_the_page_names_exists(name: str) -> None:
    assert f"def {name}(" in TESTS


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:tests|benchmarks)/[\w/]+\.py)`", PAGE))))
def test_reliability_page_names_existing_files(path: str) -> None:
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("case", sorted(set(re.findall(r"(?<!`)\[([^]]+)\](?!\()", PAGE))))
def test_case_that_the_page_names_exists(case: str) -> None:
    assert f'"{case}"' in TESTS
