"""`make release` builds chart, notes, bills of materials, checksums and distributions.

The distributions also work outside of the repository.
"""

import hashlib
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

import retrain

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "release.py"))
VERSION = retrain.__version__
PARTS = (
    "CHANGELOG.md",
    "CITATION.cff",
    "LICENSE",
    "MANIFEST.in",
    "README.md",
    "pyproject.toml",
    *(f"requirements-{image}.lock" for image in ("image", "cpu", "slim")),
)
FOLDERS = ("charts/retrain", "pipelines", "retrain", "studies", "tasks", "tests/store/golden")


def commit(root: Path) -> None:
    """Commit everything in a folder."""
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for line in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--allow-empty", "--message=A change"]):
        subprocess.run([*git, *line], check=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a repository with the files that a release is built from."""
    root = tmp_path / "repository"
    root.mkdir()
    for name in PARTS:
        shutil.copy(ROOT / name, root)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    commit(root)
    return root


def make_release(root: Path) -> subprocess.CompletedProcess[str]:
    """Build the release of a repository, as `make release` does."""
    return subprocess.run([sys.executable, ROOT / "scripts" / "release.py", root], capture_output=True, text=True)


def run_installed(wheel: Path, folder: Path, *line: str) -> str:
    """Install a wheel into a separate folder, run `retrain` in an empty folder, and return its output."""
    if not (folder / "empty").exists():
        (folder / "empty").mkdir()
        uv = ["uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--target", str(folder / "installed")]
        subprocess.run([sys.executable, "-m", *uv, str(wheel)], check=True)
    return run_python(folder, "-m", "retrain", *line)


def run_python(folder: Path, *line: str) -> str:
    """Run Python with the installed wheel in the empty folder, and return its output."""
    return subprocess.run(
        [sys.executable, *line],
        cwd=folder / "empty",
        env=os.environ | {"PYTHONPATH": str(folder / "installed"), "PYTHONSAFEPATH": "1"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_release_has_all_files_and_they_work(root: Path, tmp_path: Path) -> None:
    built = make_release(root)
    assert (built.returncode, built.stderr) == (0, "")
    dist = root / "dist"
    wheel, source = dist / f"retrain_classifiers-{VERSION}-py3-none-any.whl", f"retrain_classifiers-{VERSION}.tar.gz"
    chart, notes = f"retrain-{VERSION}.tgz", f"retrain-{VERSION}-notes.md"
    bills = {image: f"retrain-{VERSION}-{image}.cdx.json" for image in ("image", "cpu", "slim")}
    assert {path.name for path in dist.iterdir()} == {wheel.name, source, chart, *bills.values(), notes, "SHA256SUMS"}
    for line in (dist / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == digest

    assert run_installed(wheel, tmp_path, "--version").strip() == VERSION
    run_installed(wheel, tmp_path, "task", "init", "birds")
    run_installed(wheel, tmp_path, "pipeline", "compile", "--task", "birds", "--output", "birds-pipeline.yaml")
    compiled = list(yaml.safe_load_all((tmp_path / "empty" / "birds-pipeline.yaml").read_text()))
    assert compiled[0]["pipelineInfo"]["name"] == "retrain-birds"
    studies = run_installed(wheel, tmp_path, "study", "list")
    assert {path.stem for path in root.glob("studies/*.yaml")} <= set(re.findall(r"^ +(\S+) ", studies, re.MULTILINE))
    regimes = "from retrain.experiments.regimes.settings import load_regimes; print(len(load_regimes()))"
    assert int(run_python(tmp_path, "-c", regimes)) == len(list(root.glob("studies/regimes/*.yaml")))
    for path in root.glob("tasks/*.yaml"):
        assert "is valid" in run_installed(wheel, tmp_path, "task", "check", path.stem)
    with tarfile.open(dist / source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"studies/digits.yaml", "tasks", "pyproject.toml", "CHANGELOG.md"} <= names
    committed = int(subprocess.check_output(["git", "-C", root, "log", "-1", "--format=%ct"]))
    for name in (source, chart):
        with tarfile.open(dist / name) as archive:
            assert {member.mtime for member in archive.getmembers()} == {committed}
    with tarfile.open(dist / chart) as archive:
        assert "retrain/values.schema.json" in archive.getnames()
    documents = {image: json.loads((dist / bill).read_text()) for image, bill in bills.items()}
    assert {document["metadata"]["component"]["version"] for document in documents.values()} == {VERSION}
    parts = {image: {part["name"] for part in document["components"]} for image, document in documents.items()}
    trained_with = {"torch", "torchvision"}
    assert all("boto3" in names for names in parts.values())
    assert [trained_with <= parts["image"], trained_with <= parts["cpu"], trained_with & parts["slim"]] == [
        True,
        True,
        set(),
    ]
    assert any(name.startswith("nvidia") for name in parts["image"] - parts["cpu"])
    assert "### Added" in (dist / notes).read_text()


def write_archive(path: Path, moment: int, mode: int, owner: str) -> None:
    """Write an archive of a script and a text, with this time, these permissions and this owner."""
    with tarfile.open(path, "w:gz") as archive:
        for name, rights in (("run.sh", mode | 0o100), ("notes.md", mode)):
            member = tarfile.TarInfo(f"release/{name}")
            member.mtime, member.mode, member.uname, member.size = moment, rights, owner, len(name)
            archive.addfile(member, io.BytesIO(name.encode()))


def test_normalized_archives_of_equal_files_have_equal_bytes(tmp_path: Path) -> None:
    one, other = tmp_path / "one.tar.gz", tmp_path / "other.tar.gz"
    write_archive(one, 1_000_000_000, 0o664, "ann")
    write_archive(other, 1_100_000_000, 0o640, "bob")
    for path in (one, other):
        SCRIPT["normalize_archive"](path, 1_200_000_000)
    assert one.read_bytes() == other.read_bytes()
    with tarfile.open(one) as archive:
        members = archive.getmembers()
        contents = [file.read() for file in map(archive.extractfile, members) if file]
    assert contents == [b"notes.md", b"run.sh"]
    assert [(one.name, one.mode, one.mtime, one.uname) for one in members] == [
        ("release/notes.md", 0o644, 1_200_000_000, ""),
        ("release/run.sh", 0o755, 1_200_000_000, ""),
    ]


def test_inconsistent_release_is_refused(root: Path) -> None:
    chart = root / "charts" / "retrain" / "Chart.yaml"
    chart.write_text(chart.read_text().replace(f"version: {VERSION}", "version: 9.9.9"))
    changelog = root / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace(f"## [{VERSION}] - ", "## [Unreleased]: "))
    (root / "tests" / "store" / "golden" / f"{VERSION}.tar.xz").unlink()
    refused = make_release(root)
    assert refused.returncode == 1
    first, second, third, fourth, *changed = refused.stderr.splitlines()
    assert first.startswith(
        f"The version of charts/retrain/Chart.yaml is 9.9.9, but retrain/__init__.py says {VERSION}: "
    )
    assert second.startswith(f"CHANGELOG.md has no section '## [{VERSION}] - YYYY-MM-DD'")
    golden = f"tests/store/golden/{VERSION}.tar.xz"
    assert third.startswith(f"{golden} is missing: write it with tests/store/golden/write.py")
    assert fourth == "Files have uncommitted changes: commit or revert them."
    assert [line.split()[-1] for line in changed] == ["CHANGELOG.md", "charts/retrain/Chart.yaml", golden]
    assert not (root / "dist").exists()
