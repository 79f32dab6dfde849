"""`make release`: build everything that a release publishes into `dist/`.

It checks that the version is the same everywhere and has a dated section in CHANGELOG.md. Then it builds the source
distribution, the wheel, the chart's package, a bill of materials for each image, the release notes and the checksums.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml
from helm_python import package

import retrain

ROOT = Path(__file__).parents[1]
IMAGES = ("image", "cpu", "slim")
"""The images. Each has its locked packages in `requirements-IMAGE.lock`."""
UNLOCKED = {"cpu": ("torch", "torchvision")}
"""Packages of an image that are missing in its lock, because their wheels for CPUs have other hashes than on PyPI."""


def main(root: Path = ROOT) -> None:
    """Build the release of the repository at `root`, or exit with all problems that prevent it."""
    version = retrain.__version__
    if problems := find_problems(root, version):
        sys.exit("\n".join(problems))
    target = root / "dist"
    target.mkdir(exist_ok=True)
    for old in target.iterdir():
        old.unlink()
    build_distributions(root, target)
    package(root / "charts" / "retrain", destination=target)
    for image in IMAGES:
        write_bill_of_materials(root, version, image, target)
    (target / f"retrain-{version}-notes.md").write_text(find_notes(root, version) or "")
    write_checksums(target)
    print("\n".join(str(path.relative_to(root)) for path in sorted(target.iterdir())))


def find_problems(root: Path, version: str) -> list[str]:
    """Return a sentence for each reason not to release this version."""
    chart = yaml.safe_load((root / "charts" / "retrain" / "Chart.yaml").read_text())
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    stated = {
        "version of charts/retrain/Chart.yaml": chart["version"],
        "appVersion of charts/retrain/Chart.yaml": chart["appVersion"],
        "version of CITATION.cff": citation["version"],
    }
    wrong = [
        f"The {where} is {value}, but retrain/__init__.py says {version}: change one of them."
        for where, value in stated.items()
        if value != version
    ]
    if find_notes(root, version) is None:
        wrong.append(
            f"CHANGELOG.md has no section '## [{version}] - YYYY-MM-DD': give the release's section that heading."
        )
    if changed := _git(root, "status", "--porcelain", "--untracked-files=no"):
        wrong.append(f"Files have uncommitted changes: commit or revert them.\n{changed}")
    return wrong


def _git(root: Path, *line: str) -> str:
    return subprocess.check_output(["git", "-C", root, *line], text=True).strip()


def find_notes(root: Path, version: str) -> str | None:
    """Return the text of a version's dated section in the changelog. Return None if it is missing or empty."""
    heading = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)"
    found = re.search(heading, (root / "CHANGELOG.md").read_text(), re.MULTILINE | re.DOTALL)
    return (found[1].strip() + "\n" if found[1].strip() else None) if found else None


def build_distributions(root: Path, target: Path) -> None:
    """Build the source distribution, and the wheel from it. Their files have the time of the last commit."""
    command = ["uv", "build", "--quiet", "--no-build-isolation"]
    line = [*command, "--python", sys.executable, "--out-dir", str(target), str(root)]
    committed = {"SOURCE_DATE_EPOCH": _git(root, "log", "-1", "--format=%ct")}
    subprocess.run([sys.executable, "-m", *line], check=True, env=os.environ | committed)
    (target / ".gitignore").unlink(missing_ok=True)  # written by uv


def write_bill_of_materials(root: Path, version: str, image: str, folder: Path) -> None:
    """Write an image's packages, with their versions and hashes, as CycloneDX."""
    path = folder / f"retrain-{version}-{image}.cdx.json"
    command = ["cyclonedx_py", "requirements", "--output-reproducible", "-"]
    line = [*command, "--pyproject", str(root / "pyproject.toml"), "--output-file", str(path)]
    quiet = {"PYTHONWARNINGS": "ignore::UserWarning"}  # a lock file has no graph of dependencies, and it says so
    packages = read_packages(root, image)
    subprocess.run([sys.executable, "-m", *line], input=packages, text=True, check=True, env=os.environ | quiet)
    document = json.loads(path.read_text())
    document["metadata"]["component"]["version"] = version  # pyproject.toml has no fixed version
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")


def read_packages(root: Path, image: str) -> str:
    """Return an image's packages as requirements. Packages that are missing in the lock have no hashes."""
    lock, of_all = ((root / f"requirements-{name}.lock").read_text() for name in (image, "image"))
    unlocked = [re.search(rf"^{name}==\S+", of_all, re.MULTILINE) for name in UNLOCKED.get(image, ())]
    return "\n".join([lock, *(found[0] for found in unlocked if found)])


def write_checksums(target: Path) -> None:
    """Write the SHA-256 of each file in a folder, in the format of `sha256sum --check`."""
    files = sorted(path for path in target.iterdir() if path.is_file())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (target / "SHA256SUMS").write_text("".join(lines))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
