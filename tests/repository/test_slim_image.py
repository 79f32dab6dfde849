"""The files of the slim image: Python needs no other files, and equal inputs give equal bytes."""

import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "slim_image.py"))
USED = """
import retrain, ssl
print(retrain.__file__, ssl.__file__, sep="\\n")
"""
"""Program that replaces the script's `USED`. It loads fewer modules than the watcher and the exporter."""
CHECK = """
import bz2, ctypes, datetime, hashlib, lzma, multiprocessing, retrain, sqlite3, ssl, zoneinfo
assert ssl.create_default_context().get_ca_certs()
assert datetime.datetime(2026, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")).utcoffset().seconds == 7200
print(retrain.NAME)
"""


class Gathered(NamedTuple):
    """A virtual environment, and the trees that were gathered from it."""

    venv: Path
    trees: Path

    def found(self, tree: str) -> set[str]:
        """Return the paths in one tree. Paths in site-packages are relative to site-packages."""
        root = self.trees / tree
        names = (str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())
        return {name.rpartition("/site-packages/")[2] for name in names}


@pytest.fixture(scope="module")
def gathered(tmp_path_factory: pytest.TempPathFactory) -> Gathered:
    """Gather the files of a virtual environment with a package `retrain` and other packages."""
    folder = tmp_path_factory.mktemp("slim")
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=240)
    packages = next(venv.glob("lib/python3*")) / "site-packages"
    for name, text in {
        "retrain/__init__.py": "NAME = 'flowers'\n",
        "retrain/later.py": "",
        "other/__init__.py": "",
        "other/tests/test_other.py": "",
        "botocore/data/s3/service.json": "{}",
        "botocore/data/ec2/service.json": "{}",
        "../../../bin/retrain": "#!/bin/false\n",
    }.items():
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCRIPT["main"].__globals__, "USED", USED)
        SCRIPT["main"](venv, folder / "trees")
    return Gathered(venv, folder / "trees")


def test_slim_image_has_one_tree_for_each_layer(gathered: Gathered) -> None:
    own, packages, base = (gathered.found(tree) for tree in ("retrain", "packages", "base"))
    modules = {f"retrain/{path}" for path in ("__init__.py", "later.py")}
    compiled = {importlib.util.cache_from_source(name) for name in modules}
    assert own == {*modules, *compiled, f"{gathered.venv}/bin/retrain".removeprefix("/")}
    assert {"other/__init__.py", "botocore/data/s3/service.json"} <= packages
    assert not [name for name in packages if "/ec2/" in name or "/tests/" in name or name.endswith(".pyc")]
    assert [Path(name).name.partition(".")[0] for name in base if name.endswith(".pyc")] == ["ssl"]
    assert not [name for name in base if name.endswith("/sh") or "/site-packages/" in name]


def test_files_of_the_slim_image_do_not_depend_on_time(gathered: Gathered) -> None:
    assert {path.lstat().st_mtime for path in gathered.trees.rglob("*")} == {SCRIPT["MOMENT"]}
    flags = {path.read_bytes()[4:8] for path in gathered.trees.rglob("*.pyc")}
    assert flags == {b"\1\0\0\0"}, "Python must accept compiled modules without a check of their source"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can change the root folder")
def test_python_runs_with_only_the_gathered_files(gathered: Gathered, tmp_path: Path) -> None:
    for tree in ("base", "packages", "retrain"):
        shutil.copytree(gathered.trees / tree, tmp_path / "root", symlinks=True, dirs_exist_ok=True)
    chroot = shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin:/bin") or "chroot"
    command = [chroot, tmp_path / "root", gathered.venv / "bin" / "python3", "-c", CHECK]
    ended = subprocess.run(command, env={}, capture_output=True, text=True, timeout=240)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "flowers\n", "")
