"""The image contains only the locked dependencies that running retrain needs."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked(name: str) -> dict[str, str]:
    """Return the versions that a lock pins, by package."""
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+) \\$", (ROOT / name).read_text(), re.MULTILINE))


def wanted(requirements: list[str]) -> set[str]:
    return {re.split(r"[^a-z0-9-]", requirement)[0] for requirement in requirements}


def test_image_pins_what_was_tested() -> None:
    assert locked("requirements-image.lock").items() <= locked("requirements.lock").items()


def test_image_holds_what_runs_need_and_no_tools() -> None:
    extras = PROJECT["optional-dependencies"]
    image = set(locked("requirements-image.lock"))
    assert wanted(PROJECT["dependencies"]) | wanted(extras["kfp"]) | wanted(extras["gcs"]) <= image
    assert image & wanted(extras["dev"]) == {"setuptools"}  # which torch asks for


def test_slim_image_is_the_other_one_without_torch() -> None:
    slim, image = locked("requirements-slim.lock"), locked("requirements-image.lock")
    assert slim.items() <= image.items()
    assert wanted(PROJECT["dependencies"]) - set(slim) == {"torch", "torchvision"}
    assert not [name for name in slim if re.match(r"torch|nvidia|cuda|triton", name)]


def test_build_context_holds_only_what_the_image_needs() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert sent == {name for names in copied for name in names.split()}
    assert all((ROOT / name).exists() for name in sent)
