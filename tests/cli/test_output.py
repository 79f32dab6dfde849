"""Print to a full disk, to a closed pipe, and in encodings that lack a character."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support import known_ledger
from support.served import Served, make_served

from retrain.config.task import Task
from retrain.store import LocalStore

RETRAIN = (sys.executable, "-m", "retrain")


@pytest.fixture
def task_file(tmp_path: Path) -> str:
    """Return the path of a task file. The task's ledger has runs."""
    store = LocalStore(tmp_path / "store")
    known_ledger.write(store, known_ledger.pets())
    (tmp_path / "pets.json").write_text(Task(name="pets", store=str(store.root)).model_dump_json())
    return str(tmp_path / "pets.json")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return make_served(tmp_path_factory.mktemp("served"), 0, 1)


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["history"], ["history", "--json"], ["study", "list"]], ids=" ".join
)
def test_output_to_a_full_disk_gives_one_message(words: list[str], task_file: str) -> None:
    task = ["--task", task_file] if "history" in words else []
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run([*RETRAIN, *words, *task], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode in (1, 2)
    assert ended.stderr == "retrain: standard output cannot be written: No space left on device\n"


def test_command_with_closed_output_pipe_prints_no_error(task_file: str) -> None:
    command = [*RETRAIN, "history", "--json", "--task", task_file]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.close()
        assert process.stderr
        assert process.stderr.read() == ""


ENCODINGS = [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}]

CONFIRM = """
from retrain.cli.options import confirm
from retrain.cli.output import open_closed_streams
open_closed_streams()
confirm("Go on?", yes=False)
"""
"""Program that asks for confirmation, as `retrain rollback` does."""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_command_works_with_closed_standard_streams(closed: str, task_file: str) -> None:
    """Help has characters that ASCII lacks."""
    ascii_only = os.environ | ENCODINGS[0]
    for command in (
        [*RETRAIN, "history", "--task", task_file],
        [*RETRAIN, "run", "--help"],
        [sys.executable, "-c", CONFIRM],
    ):
        bash = ["bash", "-c", f"{shlex.join(command)} {closed}"]
        ended = subprocess.run(bash, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=ascii_only)
        assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("words", [["--help"], ["history"], ["study", "list"]], ids=" ".join)
def test_ascii_output_replaces_other_characters(
    encoding: dict[str, str], words: list[str], task_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in encoding.items():
        monkeypatch.setenv(name, value)
    task = ["--task", task_file] if "history" in words else []
    ended = subprocess.run([*RETRAIN, *words, *task], capture_output=True)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.decode("ascii")


def test_ascii_output_replaces_other_characters_of_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = tmp_path / "pets.yaml"
    task.write_text(f"name: pets\nstore: {tmp_path}/ställe\n", encoding="utf-8")
    monkeypatch.setenv("COLUMNS", "200")  # so that the path fits on one line
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    ended = subprocess.run([*RETRAIN, "status", "--task", str(task)], capture_output=True)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"st?lle" in ended.stdout


CALL_EACH = """
import json, sys
from retrain.cli import main
for sys.argv in json.loads(sys.argv[1]):
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
"""
"""Program that runs several commands in one process. Each process would import torch, for two seconds."""


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_predictions_are_written_in_utf8_in_any_locale(encoding: dict[str, str], served: Served) -> None:
    [image, *_] = sorted(served.images(0).rglob("*.png"))
    path = image.rename(image.with_name("jalapeño-č.png"))
    output = path.parent / "predicted.csv"
    command = ["retrain", "predict", str(path), "--task", served.file]
    commands = json.dumps([command, [*command, "-o", str(output)]], ensure_ascii=False)
    program = [sys.executable, "-c", CALL_EACH, commands]
    ended = subprocess.run(program, capture_output=True, env=os.environ | encoding)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert str(path).encode() in ended.stdout
    assert str(path).encode() in output.read_bytes()


def test_json_is_written_in_utf8_in_any_locale(tmp_path: Path) -> None:
    task = tmp_path / "pets.yaml"
    task.write_text(f"name: pets\nstore: {tmp_path}/ställe\n", encoding="utf-8")
    command = [*RETRAIN, "status", "--json", "--task", str(task)]
    ended = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "latin-1"})
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert json.loads(ended.stdout)["store"] == f"{tmp_path}/ställe"
