"""Gather the files of the slim image from a build stage with its packages. The script needs only Python.

    python3 scripts/slim_image.py VENV FOLDER

The script writes one tree for each layer of the image. `FOLDER/base` has Python, the libraries that Python and the
packages link to, certificates and time zones. The other trees are `FOLDER/packages` and `FOLDER/retrain`. Equal inputs
give equal files: times are constant, and Python recognizes compiled modules without the time of their source. The
script compiles only `retrain` and the modules that watcher and exporter import. All compiled modules would take twice
the space.
"""

import os
import re
import shutil
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator
from importlib.util import cache_from_source
from pathlib import Path
from py_compile import PycInvalidationMode, compile

STDLIB = Path(sysconfig.get_path("stdlib"))
USED = """
import sys, sqlite3, zoneinfo, boto3, kfp.kubernetes, obstore.store, PIL.Image, webdataset, retrain.cli
import retrain.kubeflow.client, retrain.monitoring.exporter, retrain.monitoring.report, retrain.watcher.watcher
boto3.client("sqs", "eu-west-1")
print(*(file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))), sep="\\n")
"""
"""Program that prints the files of the modules that watcher and exporter load."""
NOT_OF_PYTHON = {"__pycache__", "site-packages", "dist-packages", "ensurepip", "idlelib", "lib2to3", "test", "tkinter"}
NOT_OF_PACKAGES = {"__pycache__", "tests"}
UNUSED_SERVICES = re.compile(r"botocore/data/(?!(s3|sqs|sts|sso[^/]*)/)[^/]+/")
"""Services of AWS whose descriptions no command reads."""
DATA = tuple(
    f"/etc/{name}"
    for name in (
        "group",
        "ld.so.cache",
        "nsswitch.conf",
        "os-release",
        "passwd",
        "protocols",
        "services",
        "ssl/openssl.cnf",
    )
)
"""System files that libraries read."""
MOMENT = 315532800
"""Time of every file in Unix seconds: 1 January 1980, the earliest time that zip files can have."""


def files_below(folder: Path, without: Collection[str] = ()) -> Iterator[Path]:
    """Yield the files and links below a folder, without folders of these names."""
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        folders[:] = sorted(name for name in folders if name not in without and not name.startswith("config-3"))
        yield from (Path(parent) / name for name in sorted([*names, *links]))


def linked_libraries(programs: Iterable[Path]) -> set[Path]:
    """Return the shared libraries that programs and extensions load, and the dynamic loader."""
    output = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    return {Path(path) for path in re.findall(r"^\s+(?:\S+ => )?(/\S+) \(0x", output, re.MULTILINE)}


def copy(path: Path, tree: Path, keep_link: bool = False) -> None:
    """Copy a file to its place in a tree. Copy a link as a link if `keep_link`, else as the file that it points to."""
    target = tree / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() and keep_link:
        target.symlink_to(path.readlink())
    elif path.is_file():
        shutil.copyfile(path, target)
        target.chmod(0o755 if os.access(path, os.X_OK) else 0o644)


def copy_interpreter(venv: Path, tree: Path) -> Path:
    """Copy Python and the links to it outside of the virtual environment. Return the path of Python."""
    path = venv / "bin" / "python3"
    while path.is_symlink():
        path = Path(os.path.normpath(path.parent / path.readlink()))
        if not path.is_relative_to(venv):
            copy(path, tree, keep_link=True)
    return path


def gather_base(venv: Path, tree: Path) -> None:
    """Gather Python, its standard library, shared libraries, certificates and time zones."""
    python = copy_interpreter(venv, tree)
    modules = list(files_below(STDLIB, NOT_OF_PYTHON))
    extensions = [path for path in (*modules, *files_below(venv)) if re.search(r"\.so(\.\d+)*$", path.name)]
    libraries = {path for path in linked_libraries([python, *extensions]) if not path.is_relative_to(venv)}
    loaded_by_name = {path for folder in {one.parent for one in libraries} for path in folder.glob("libnss_[df]*.so.2")}
    for path in sorted({*modules, *libraries, *loaded_by_name, *map(Path, DATA)}):
        copy(path, tree)
    zones = files_below(Path("/usr/share/zoneinfo"), {"right", "posix"})
    openssl = Path(ssl.get_default_verify_paths().openssl_capath).parent
    certificates = (*files_below(Path("/etc/ssl/certs")), *files_below(Path("/usr/share/ca-certificates")))
    for path in (*zones, *certificates, *files_below(openssl, {"misc"})):
        copy(path, tree, keep_link=True)
    describe_packages([python, *modules, *libraries], tree)


def describe_packages(files: Iterable[Path], tree: Path) -> None:
    """Copy the status and licences of the system packages of these files. Image scanners read them."""
    if not shutil.which("dpkg-query"):
        return
    names = [f"{prefix}{file}" for file in files for prefix in ("", "/usr")]  # /lib is a link to /usr/lib
    output = subprocess.run(["dpkg-query", "--search", *names], capture_output=True, text=True, check=False).stdout
    owners = {name for line in output.splitlines() for name in line.partition(": ")[0].split(", ")}
    for package in sorted({*owners, "ca-certificates", "tzdata"}):
        status = subprocess.run(["dpkg-query", "--status", package], capture_output=True, check=False).stdout
        name = package.partition(":")[0]
        described = tree / "var/lib/dpkg/status.d" / name
        described.parent.mkdir(parents=True, exist_ok=True)
        described.write_bytes(status)
        copy(Path("/usr/share/doc") / name / "copyright", tree)


def gather_packages(venv: Path, packages: Path, own: Path) -> None:
    """Gather the virtual environment, with `retrain` in a separate tree. The other tree changes only with the lock."""
    for path in files_below(venv, NOT_OF_PACKAGES):
        inside = str(path.relative_to(venv))
        if not UNUSED_SERVICES.search(inside):
            is_own = re.match(r"bin/retrain$|lib/python[^/]+/site-packages/retrain", inside)
            copy(path, own if is_own else packages, keep_link=True)


def compile_modules(venv: Path, trees: Collection[Path]) -> None:
    """Compile the modules of `retrain`, and those that watcher and exporter load."""
    output = subprocess.run([venv / "bin" / "python3", "-B", "-c", USED], capture_output=True, text=True, check=True)
    own = [path for path in files_below(venv) if "/site-packages/retrain/" in str(path)]
    for path in sorted({*map(Path, output.stdout.splitlines()), *own}):
        for tree in trees:
            source = tree / path.relative_to("/")
            if path.suffix == ".py" and source.is_file():
                file, mode = cache_from_source(str(source)), PycInvalidationMode.UNCHECKED_HASH
                compile(str(source), file, str(path), doraise=True, invalidation_mode=mode)


def normalize_tree(tree: Path) -> None:
    """Give all files and folders of a tree the same time, and all folders the same permissions."""
    for path in (*tree.rglob("*"), tree):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
        os.utime(path, (MOMENT, MOMENT), follow_symlinks=False)


def main(venv: Path, folder: Path) -> None:
    """Write the three trees."""
    base, packages, own = (folder / name for name in ("base", "packages", "retrain"))
    gather_base(venv, base)
    gather_packages(venv, packages, own)
    compile_modules(venv, (base, packages, own))
    for tree in (base, packages, own):
        normalize_tree(tree)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
