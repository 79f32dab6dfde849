"""Tests of log lines, their format and level, and of shell completion and environment variables for `--task`."""

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from support.processes import preloaded_retrain
from support.terminal import Ran
from support.workspaces import make_task

from retrain.kubeflow import steps


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a working directory with two task files and empty stores."""
    (tmp_path / "tasks").mkdir()
    for name in ("birds", "boats"):
        settings = make_task(name=name, store=str(tmp_path / "store")).model_dump()
        (tmp_path / "tasks" / f"{name}.yaml").write_text(json.dumps(settings))
    return tmp_path


def run_in(home: Path, *arguments: str, **environment: str) -> Ran:
    ended = subprocess.run(
        [preloaded_retrain(), *arguments],
        cwd=home,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return Ran(ended.returncode, ended.stdout, ended.stderr)


TRAINJOB = ("pipeline", "trainjob")
WARNING = "is a local folder: pods cannot read it; set `store` to s3://, gs:// or az://"


def test_json_log_has_one_object_per_line(home: Path) -> None:
    ended = run_in(home, "--log-format", "json", *TRAINJOB, "-t", "birds")
    warning = json.loads(ended.err.splitlines()[0])
    assert warning["level"] == "warning"
    assert WARNING in warning["message"]
    assert datetime.fromisoformat(warning["time"]).utcoffset() is not None


PROGRAM = """
import logging, sys, threading, warnings
from retrain.cli import app, main
from retrain.utils.processes import run_in_subprocess

@app.command()
def broken():
    run_in_subprocess("work", 240, logging.getLogger("retrain").warning, "from the subprocess")
    run_in_subprocess("work", 240, logging.getLogger("retrain").info, "information")
    warnings.warn("an old function")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    raise ValueError("two\\nlines")

if __name__ == "__main__":
    sys.argv = ["retrain", *sys.argv[1:], "broken"]
    main()
"""


@pytest.mark.parametrize("quiet", [False, True])
def test_json_log_has_subprocesses_warnings_and_defects(home: Path, quiet: bool) -> None:
    (home / "program.py").write_text(PROGRAM)
    command = [sys.executable, "program.py", "--log-format", "json", *(["--quiet"] if quiet else [])]
    ended = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=240)
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    said = ["from the subprocess", *([] if quiet else ["information"])]
    assert [line["message"] for line in lines[:-3]] == said
    warning, in_thread, uncaught = lines[-3:]
    assert "an old function" in warning["message"]
    assert "ZeroDivisionError" in in_thread["traceback"]
    assert uncaught["message"] == "unexpected error: two\nlines"
    assert "ValueError: two\nlines" in uncaught["traceback"]
    assert ended.returncode == 1


def test_json_log_reports_a_wrong_task_name(home: Path) -> None:
    ended = run_in(home, "status", "-t", "bird", RETRAIN_LOG_FORMAT="json")
    assert ended.code == 2
    error = json.loads(ended.err)
    assert error["level"] == "error"
    assert "did you mean birds?" in error["message"]


def test_quiet_keeps_warnings_and_refuses_verbose(home: Path) -> None:
    assert WARNING in run_in(home, "--quiet", *TRAINJOB, "-t", "birds").err
    both = run_in(home, "-q", "-v", "status", "-t", "birds")
    assert both == (2, "", "retrain: --verbose and --quiet cannot be combined: pass one of them\n")


def test_verbose_logs_the_requests_to_the_store(home: Path, s3: str, bucket: str) -> None:
    settings = make_task(name="reefs", store=f"s3://{bucket}/t", endpoint_url=s3).model_dump()
    (home / "tasks" / "reefs.yaml").write_text(json.dumps(settings))
    plain, verbose = (run_in(home, *flags, "status", "-t", "reefs") for flags in ((), ("--verbose",)))
    assert plain.out == verbose.out
    assert " S3 GetObject " in verbose.err
    assert " S3 " not in plain.err


def test_retrain_task_variable_replaces_the_task_option(home: Path) -> None:
    assert json.loads(run_in(home, "status", "--json", RETRAIN_TASK="birds").out)["task"] == "birds"
    assert json.loads(run_in(home, "status", "--json", "-t", "boats", RETRAIN_TASK="birds").out)["task"] == "boats"
    watched = run_in(home, "watch", "--once", RETRAIN_TASK="birds boats")
    assert watched.code == 0, watched.err


@pytest.mark.parametrize("words", ["retrain run --task b", "retrain watch -t birds -t b", "retrain drop list -t b"])
def test_shell_completes_task_names(home: Path, words: str) -> None:
    completion = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    command = str(Path(sys.executable).with_name("retrain"))
    offered = subprocess.run(
        [command],
        cwd=home,
        env=os.environ | completion | {"_RETRAIN_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert offered.stdout.split() == ["birds", "boats"]


def test_pipeline_step_refuses_an_unknown_log_format(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAIN_LOG_FORMAT", "xml")
    monkeypatch.setattr(steps.log, "handlers", [])
    with pytest.raises(steps.UserError, match="RETRAIN_LOG_FORMAT=xml: must be text or json"):
        steps.plan((home / "tasks" / "birds.yaml").read_text(), "", "retrain", "submission", "job")
