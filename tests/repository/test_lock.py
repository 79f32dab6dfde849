"""Lock files state every dependency by version and hash, without an index, and with one version for all uses."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def locked(name: str) -> dict[str, str]:
    """Return each requirement's version, and all that is said of it."""
    blocks = re.split(r"\n(?=[a-z])", (ROOT / name).read_text())
    return {block.split("==")[0].split("[")[0]: block for block in blocks if "==" in block}


@pytest.mark.parametrize(
    "name", ["requirements.lock", *(f"requirements-{of}.lock" for of in ("image", "slim", "mlflow", "kserve"))]
)
def test_every_dependency_is_locked_by_version_and_hash(name: str) -> None:
    assert len(locked(name)) > 50
    assert all("--hash=sha256:" in block for block in locked(name).values())
    assert not re.search(r"index-url|find-links|https?://|file:", (ROOT / name).read_text())


def test_image_has_the_versions_that_are_tested() -> None:
    tested, shipped = locked("requirements.lock"), locked("requirements-image.lock")
    assert shipped.keys() <= tested.keys()
    version = {name: block.split()[0] for name, block in tested.items()}
    assert {name: block.split()[0] for name, block in shipped.items()} == {name: version[name] for name in shipped}


def test_tests_do_without_the_slow_grammar_of_rfc3987() -> None:
    """jsonschema imports it where it is installed, and kfp and altair import jsonschema: 1.8 s for every process."""
    assert "jsonschema" in locked("requirements.lock")
    assert "rfc3987-syntax" not in locked("requirements.lock")
