"""Tests of studies that are killed, and of studies that two commands run at the same time."""

import json
import os
import signal
from pathlib import Path

import pytest
from support.leases import wait_until
from support.processes import ForkedCommand
from support.studying import CPU, small_study, workplace
from support.terminal import retrain

from retrain.experiments.drops import DataRoot
from retrain.experiments.grid import Cell, cells
from retrain.experiments.runner import run
from retrain.experiments.runs import Runs
from retrain.store import LocalStore


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def digests(runs: Runs) -> dict[Cell, str | None]:
    return {one.cell: one.record.result.model_digest for one in runs.ended_runs() if one.record.result}


STUDY = small_study(seeds=[0, 1], set={"training.epochs": 20})


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[Cell, str | None]:
    """Return the digests of the models of a study that is not interrupted."""
    folder = tmp_path_factory.mktemp("alone")
    with workplace(folder / "study_root") as study_root:
        runs = Runs(STUDY, str(folder / "store"))
        run(runs, DataRoot(study_root), CPU)
        return digests(runs)


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_study_ends_its_processes_and_later_resumes(
    tmp_path: Path, jobs: int, uninterrupted: dict[Cell, str | None]
) -> None:
    with workplace(tmp_path / "study_root") as study_root:
        (study_root / "studies").mkdir()
        (study_root / "studies" / "small.yaml").write_text(STUDY.model_dump_json())
        killed = Runs(STUDY, str(tmp_path / "killed"))
        store = killed.store(killed.task(next(cells(STUDY, 1))).name)
        settings = [
            "--root",
            str(study_root),
            "--store",
            str(tmp_path / "killed"),
            "--jobs",
            str(jobs),
            "--device",
            "cpu",
        ]
        process = ForkedCommand("retrain", "study", "run", "small", *settings, output=tmp_path / "output")
        wait_until(lambda: bool(store.ledger.read()))
        started = children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))
        ended = len(store.ledger.read())
        assert ended > 0
        assert run(killed, DataRoot(study_root), CPU) == 8 - ended
        assert digests(killed) == uninterrupted
        assert len(digests(killed)) == 8


@pytest.mark.parametrize("jobs", [1, 2])
def test_stopped_study_ends_with_a_message(tmp_path: Path, jobs: int) -> None:
    with workplace(tmp_path / "study_root") as study_root:
        study = small_study(set={"training.epochs": 100_000, "training.save_seconds": 0})
        (study_root / "studies").mkdir()
        (study_root / "studies" / "small.yaml").write_text(study.model_dump_json())
        store = LocalStore(tmp_path / "store")
        settings = ["--root", str(study_root), "--store", str(store.root), "--jobs", str(jobs), "--device", "cpu"]
        process = ForkedCommand("retrain", "study", "run", "small", *settings, output=tmp_path / "output")
        wait_until(lambda: any("/state/" in entry.key for entry in store.list()))
        started = children(process.pid)
        os.kill(process.pid, signal.SIGTERM)
        said = process.communicate()
        assert process.poll() == os.EX_TEMPFAIL, said
        assert "small: stopped; run the command again to resume it\n" in said
        assert "Traceback" not in said
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))
        assert any("/state/" in entry.key for entry in store.list())


def test_killed_training_process_is_reported_with_a_remedy(tmp_path: Path) -> None:
    with workplace(tmp_path / "study_root") as study_root:
        study = small_study(set={"training.epochs": 100_000, "training.save_seconds": 0})
        (study_root / "studies").mkdir()
        (study_root / "studies" / "small.yaml").write_text(study.model_dump_json())
        store = LocalStore(tmp_path / "store")
        settings = ["--root", str(study_root), "--store", str(store.root), "--jobs", "2", "--device", "cpu"]
        command = ["retrain", "--log-format", "json", "study", "run", "small", *settings]
        process = ForkedCommand(*command, output=tmp_path / "output")
        wait_until(lambda: any("/state/" in entry.key for entry in store.list()))
        workers = [pid for pid in children(process.pid) if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
        os.kill(workers[0], signal.SIGKILL)
        messages = [json.loads(line)["message"] for line in process.communicate().splitlines()]
        assert process.poll() == 2, messages
        assert messages[-1].startswith("a training process was killed (perhaps for lack of memory): pass a smaller")
        assert any("iterations" in message for message in messages[:-1]), messages


def test_two_commands_on_one_store_train_each_cell_once(tmp_path: Path, uninterrupted: dict[Cell, str | None]) -> None:
    with workplace(tmp_path / "study_root") as study_root:
        (study_root / "studies").mkdir()
        (study_root / "studies" / "small.yaml").write_text(STUDY.model_dump_json())
        runs = Runs(STUDY, str(tmp_path / "store"))
        settings = ["--root", str(study_root), "--store", str(tmp_path / "store"), "--device", "cpu"]
        command = ["retrain", "study", "run", "small", *settings]
        processes = [ForkedCommand(*command, output=tmp_path / name) for name in ("first", "second")]
        outputs = [process.communicate() for process in processes]
        assert [process.poll() for process in processes] == [0, 0], outputs
        assert sum(said.count("completed after") for said in outputs) == 8
        assert digests(runs) == uninterrupted


def test_runs_after_a_diverged_run_are_counted_as_blocked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with workplace(tmp_path / "study_root") as study_root:
        diverging = {"training.optimizer": {"name": "sgd", "learning_rate": 1e38}}
        study = small_study(variants={"task": {"first": diverging}})
        (study_root / "studies").mkdir()
        (study_root / "studies" / "small.yaml").write_text(study.model_dump_json())
        settings = ["--root", str(study_root), "--store", str(tmp_path / "store"), "--device", "cpu"]
        ran = retrain(["study", "run", "small", *settings], capfd)
        assert ran.code == 0
        assert "small: 1 run done, 3 cannot start, because an earlier run diverged or failed; `retrain" in ran.out
