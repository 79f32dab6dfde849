"""`make release`: build everything that a release publishes into `dist/`.

First, it checks that the version is the same everywhere and has a dated section in CHANGELOG.md. Then it builds the
source distribution, the wheel, the chart's package, a bill of materials for each image, release notes and checksums.
Two builds of one commit give the same bytes.
"""

import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import yaml
from helm_python import package

import retrain

ROOT = Path(__file__).parents[1]
GOLDEN = "tests/store/golden"
"""Folder with an example store of each released version."""
IMAGES = ("image", "cpu", "slim")
"""The images. Each has its locked packages in `requirements-IMAGE.lock`."""
UNLOCKED = {"cpu": ("torch", "torchvision")}
"""Packages of an image that are missing in its lock, because their wheels for CPUs have other hashes than their wheels
on PyPI."""


def main(root: Path = ROOT) -> None:
    """Build the release of the repository at `root`, or exit with all problems that prevent it."""
    version = retrain.__version__
    if problems := find_problems(root, version):
        sys.exit("\n".join(problems))
    target = root / "dist"
    target.mkdir(exist_ok=True)
    for old in target.iterdir():
        old.unlink()
    os.umask(0o022)  # sets the permissions of the wheel's files
    moment = int(_git(root, "log", "-1", "--format=%ct"))
    build_distributions(root, target, moment)
    normalize_archive(Path(package(root / "charts" / "retrain", destination=target)), moment)
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
    if not (root / GOLDEN / f"{version}.tar.xz").exists():
        wrong.append(
            f"{GOLDEN}/{version}.tar.xz is missing: write it with {GOLDEN}/write.py. Later versions are then tested "
            "with a store of this version."
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


def build_distributions(root: Path, target: Path, moment: int) -> None:
    """Build the source distribution, and the wheel from it. All files get the time `moment` (Unix seconds)."""
    uv = [sys.executable, "-m", "uv", "build", "--quiet", "--no-build-isolation", "--python", sys.executable]
    line = [*uv, "--out-dir", str(target)]
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(moment)}
    subprocess.run([*line, "--sdist", str(root)], check=True, env=environment)
    [source] = target.glob("*.tar.gz")
    normalize_archive(source, moment)
    subprocess.run([*line, "--wheel", str(source)], check=True, env=environment)
    (target / ".gitignore").unlink(missing_ok=True)  # written by uv


def normalize_archive(path: Path, moment: int) -> None:
    """Rewrite a .tar.gz file without owners and group permissions. All files get the time `moment` (Unix seconds)."""
    with tarfile.open(path) as archive:
        members = [(member, archive.extractfile(member)) for member in archive.getmembers()]
        contents = [(member, file.read() if file else b"") for member, file in members]
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=moment) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for member, content in sorted(contents, key=lambda one: one[0].name):
            plain = tarfile.TarInfo(member.name)
            plain.type, plain.size, plain.mtime = member.type, len(content), moment
            plain.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            archive.addfile(plain, io.BytesIO(content))


def write_bill_of_materials(root: Path, version: str, image: str, folder: Path) -> None:
    """Write an image's packages, with their versions and hashes, as CycloneDX."""
    path = folder / f"retrain-{version}-{image}.cdx.json"
    command = ["cyclonedx_py", "requirements", "--output-reproducible", "-"]
    line = [*command, "--pyproject", str(root / "pyproject.toml"), "--output-file", str(path)]
    quiet = {"PYTHONWARNINGS": "ignore::UserWarning"}  # it warns that lock files have no graph of dependencies
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
