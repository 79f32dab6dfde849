"""Lock files state every dependency by version and hash, without the address of a package index.

The lock files of the images have the versions that are tested. The images contain only the locked dependencies that
running retrain needs.
"""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = SETTINGS["project"]


def blocks(name: str) -> dict[str, str]:
    """Return all lines of each requirement: its version, its hashes, and the packages that need it."""
    found = re.split(r"\n(?=[a-z])", (ROOT / name).read_text())
    return {block.split("==")[0].split("[")[0]: block for block in found if "==" in block}


def locked(name: str) -> dict[str, str]:
    """Return the versions that a lock pins, by package."""
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+) \\$", (ROOT / name).read_text(), re.MULTILINE))


def wanted(requirements: list[str]) -> set[str]:
    return {re.split(r"[^a-z0-9-]", requirement)[0] for requirement in requirements}


@pytest.mark.parametrize(
    "name", ["requirements.lock", *(f"requirements-{of}.lock" for of in ("image", "cpu", "slim", "mlflow", "kserve"))]
)
def test_every_dependency_is_locked_by_version_and_hash(name: str) -> None:
    assert len(blocks(name)) > 50
    assert all("--hash=sha256:" in block for block in blocks(name).values())
    assert not re.search(r"index-url|find-links|https?://|file:", (ROOT / name).read_text())


def test_lock_omits_rfc3987_syntax_because_it_is_slow() -> None:
    """If it is installed, jsonschema imports it, and kfp and altair import jsonschema. It would take 1.8 s."""
    assert "jsonschema" in blocks("requirements.lock")
    assert "rfc3987-syntax" not in blocks("requirements.lock")


def test_image_pins_the_tested_versions() -> None:
    assert locked("requirements-image.lock").items() <= locked("requirements.lock").items()


def test_image_has_packages_for_runs_and_no_tools() -> None:
    extras = PROJECT["optional-dependencies"]
    image = set(locked("requirements-image.lock"))
    assert wanted(PROJECT["dependencies"]) | wanted(extras["kfp"]) | wanted(extras["gcs"]) <= image
    assert image & wanted(SETTINGS["dependency-groups"]["dev"]) == {"setuptools"}  # torch requires it


def test_cpu_image_is_the_default_image_without_cuda() -> None:
    """The CPU builds of torch and torchvision have other hashes, so they are not in the lock of the CPU image.

    The build installs the versions that the default image's lock states.
    """
    cpu, image = locked("requirements-cpu.lock"), locked("requirements-image.lock")
    assert cpu.items() <= image.items()
    assert set(locked("requirements-slim.lock")) <= set(cpu)
    missing = image.keys() - cpu.keys()
    assert {name for name in missing if not re.match(r"nvidia-|cuda-|triton$", name)} == {"torch", "torchvision"}
    assert not [name for name in cpu if re.match(r"nvidia|cuda|triton", name)]
    assert {"sympy", "networkx", "filelock"} <= set(cpu)  # torch requires them


def test_slim_image_is_the_default_image_without_torch() -> None:
    slim, image = locked("requirements-slim.lock"), locked("requirements-image.lock")
    assert slim.items() <= image.items()
    assert wanted(PROJECT["dependencies"]) - set(slim) == {"torch", "torchvision"}
    assert not [name for name in slim if re.match(r"torch|nvidia|cuda|triton", name)]
