"""Output that cannot be written or encoded ends in a message and an exit code, without a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest
from support import known_ledger

from retrain.config.task import Task
from retrain.store import LocalStore

RETRAIN = (sys.executable, "-m", "retrain")


@pytest.fixture
def task_file(tmp_path: Path) -> str:
    """Return a task whose ledger has runs."""
    store = LocalStore(tmp_path / "store")
    known_ledger.write(store, known_ledger.pets())
    (tmp_path / "pets.json").write_text(Task(name="pets", store=str(store.root)).model_dump_json())
    return str(tmp_path / "pets.json")


@pytest.mark.parametrize(
    "how", [["--help"], ["--version"], ["history"], ["history", "--json"], ["study", "list"]], ids=" ".join
)
def test_full_disk_behind_output_ends_in_one_message(how: list[str], task_file: str) -> None:
    task = ["--task", task_file] if "history" in how else []
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run([*RETRAIN, *how, *task], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode in (1, 2)
    assert ended.stderr == "retrain: standard output cannot be written: No space left on device\n"


def test_closed_pipe_ends_without_traceback(task_file: str) -> None:
    command = [*RETRAIN, "history", "--json", "--task", task_file]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.close()
        assert process.stderr
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    "encoding", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}]
)
@pytest.mark.parametrize("how", [["--help"], ["history"], ["study", "list"]], ids=" ".join)
def test_ascii_output_replaces_other_characters(
    encoding: dict[str, str], how: list[str], task_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in encoding.items():
        monkeypatch.setenv(name, value)
    task = ["--task", task_file] if "history" in how else []
    ended = subprocess.run([*RETRAIN, *how, *task], capture_output=True)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.decode("ascii")


def test_class_names_beyond_ascii_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = tmp_path / "pets.yaml"
    task.write_text(f"name: pets\nstore: {tmp_path}/ställe\n", encoding="utf-8")
    monkeypatch.setenv("COLUMNS", "200")  # for the whole path
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    ended = subprocess.run([*RETRAIN, "status", "--task", str(task)], capture_output=True)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"st?lle" in ended.stdout
