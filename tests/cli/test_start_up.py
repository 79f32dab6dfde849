"""Tests of the imports of each command. A command that needs no slow package starts in half a second."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import known_ledger
from support.workspaces import Workspace, make_task, records

from retrain.config.task import Task
from retrain.store import LocalStore

IMPORTS: dict[str, tuple[int, set[str]]] = {
    "--help": (0, set()),
    "task init birds": (0, set()),
    "task check pets": (0, set()),
    "task schema": (0, set()),
    "drop list -t pets": (0, set()),
    "status -t pets": (0, set()),
    "history -t pets": (0, set()),
    "metrics -t pets": (0, set()),
    "gc -t pets": (0, set()),
    "watch -t cars --once": (0, set()),
    "run -t cars --dry-run": (0, set()),  # there is no drop: otherwise, the network of the plan is built with torch
    "run -t cars --dry-run --set tracking.mlflow=true": (0, set()),
    "run -t cars --dry-run --set tracking.model_registry=true": (0, set()),
    "run -t cars --on kubeflow --host http://127.0.0.1:1": (0, set()),
    "pipeline trainjob -t cars": (0, set()),
    "pipeline compile -t pets -o pipeline.yaml": (0, {"kfp"}),
    "report -t pets -o page.html": (0, {"altair"}),
    "fleet -t pets -o all.html": (0, {"altair"}),
    "run -t nowhere": (2, set()),
    "show no-such-run -t pets": (2, set()),
    "promote no-such-run -t pets": (2, set()),
    "approve no-such-run -t pets": (2, set()),
    "study run no-such-study": (2, set()),
    "study report no-such-study": (2, {"altair"}),
}
"""Commands, with their exit codes and the slow packages that they import."""

EACH = """
import json, os, sys
import retrain.config.loading, retrain.records, retrain.store.task_store  # nearly all commands need these
from retrain.cli import main

SLOW = {"altair", "boto3", "kfp", "torch", "torchvision"}
assert not SLOW & sys.modules.keys()
for line in json.loads(sys.argv[1]):
    if os.fork() == 0:
        said, sys.argv = os.dup(1), ["retrain", *line.split()]
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        try:
            main()
        except SystemExit as end:
            os.write(said, json.dumps([line, end.code, sorted(SLOW & sys.modules.keys())]).encode() + b"\\n")
        finally:
            os._exit(0)
    os.wait()
"""
"""Program that runs each command in a fork of a process that has imported no slow package."""


def test_commands_import_slow_packages_only_if_they_need_them(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    known_ledger.write(store, known_ledger.pets())
    (tmp_path / "tasks").mkdir()
    for name in ("pets", "cars"):
        (tmp_path / "tasks" / f"{name}.yaml").write_text(Task(name=name, store=store.url).model_dump_json())
    command = [sys.executable, "-c", EACH, json.dumps(list(IMPORTS))]
    environment = os.environ | {"RETRAIN_CACHE": str(tmp_path / "cache")}  # `gc` removes old files of the cache
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert {line: (code, set(slow)) for line, code, slow in map(json.loads, done.stdout.splitlines())} == IMPORTS


INTERRUPTED = """
import os, signal, sys
from retrain.cli import main

class InterruptOnce:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy.matrixlib":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, InterruptOnce())
main()
"""
"""Program that runs a command and interrupts it (Ctrl-C) while numpy is imported."""


def test_ctrl_c_while_numpy_is_imported_records_no_run(tmp_path: Path) -> None:
    workspace = Workspace(LocalStore(tmp_path / "store"), tmp_path)
    workspace.land(0, 1)
    task = tmp_path / "pets.json"
    task.write_text(make_task(store=workspace.store.url).model_dump_json())
    command = [sys.executable, "-c", INTERRUPTED, "run", "--task", str(task)]
    environment = os.environ | {"RETRAIN_CACHE": str(tmp_path / "cache")}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (ended.returncode, records(workspace)) == (130, []), ended.stderr


INTERRUPT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == interrupted:
            os.kill(os.getpid(), signal.SIGINT)

interrupted = sys.argv.pop(1)
sys.meta_path.insert(0, Interrupt())
from retrain.__main__ import main
main()
"""
"""Sends SIGINT to the process when it begins to import the module that the first argument names."""


@pytest.mark.parametrize(
    ("module", "code"), [("typer", -signal.SIGINT), ("retrain.config.loading", 130)], ids=["import", "command"]
)
def test_interrupted_command_prints_no_traceback(module: str, code: int) -> None:
    command = [sys.executable, "-c", INTERRUPT, module, "task", "check", "pets"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == code
    assert "Traceback" not in ended.stderr
