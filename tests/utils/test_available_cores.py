"""The number of computing threads respects affinity, CPU quota and other processes of the task."""

import os
import sys
import threading
from pathlib import Path

import pytest
import torch
from support.processes import preloaded_python
from support.workspaces import make_task

from retrain.experiments.workers import Workers, worker_pool
from retrain.kubeflow.launch import launch
from retrain.pipeline.context import make_context
from retrain.store import LocalStore
from retrain.store.task_store import TaskStore
from retrain.utils import processes
from retrain.utils.parallel import CHUNK_SIZE, parallel_map
from retrain.utils.processes import available_cores


@pytest.fixture
def quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the quota file of a container on a machine of 64 cores. No environment variable sets the threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(processes, "QUOTA", tmp_path / "cpu.max")
    return tmp_path / "cpu.max"


@pytest.mark.parametrize(
    ("limits", "allowed"), [("max 100000", 64), ("50000 100000", 1), ("150000 100000", 2), ("9900000 100000", 64)]
)
def test_container_has_the_cores_of_its_quota(limits: str, allowed: int, quota: Path) -> None:
    quota.write_text(limits + "\n")
    assert available_cores() == allowed


def test_cores_without_a_quota_come_from_the_affinity(quota: Path) -> None:
    assert available_cores() == 64


@pytest.mark.parametrize(("processes", "each"), [("1", 5), ("2", 2), ("8", 1)])
def test_processes_on_one_machine_share_the_quota(
    processes: str, each: int, quota: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota.write_text("500000 100000\n")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert available_cores() == each


@pytest.mark.parametrize(("threads", "expected"), [(None, 3), ("7", 7)])
def test_commands_use_available_cores_unless_threads_are_set(
    threads: str | None, expected: int, quota: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota.write_text("300000 100000\n")
    if threads:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    before = torch.get_num_threads()
    torch.set_num_threads(7)
    try:
        for _ in range(2):
            make_context(TaskStore(LocalStore(tmp_path), make_task().name), make_task(), "cpu")
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_parallel_map_uses_as_many_threads_as_cores(quota: Path) -> None:
    quota.write_text("200000 100000\n")
    both = threading.Barrier(2)  # passed only once two threads have their first items

    def where(item: int) -> int:
        if item in (0, CHUNK_SIZE):
            both.wait(60)
        return threading.get_ident()

    assert len(set(parallel_map(where, range(200)))) == 2


def test_processes_of_a_pipeline_step_share_the_cores(quota: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quota.write_text("600000 100000\n")
    monkeypatch.setattr(sys, "executable", preloaded_python())
    with pytest.raises(SystemExit):
        launch(2, "no-such-step")
    assert os.environ.pop("OMP_NUM_THREADS") == "3"


def write_cores_and_threads(folder: str, *, device: str) -> None:
    """Write the numbers of cores and of computing threads of a study's process to a file."""
    make_context(TaskStore(LocalStore(Path(folder)), make_task().name), make_task(), device)
    Path(folder, "numbers").write_text(f"{available_cores()} {torch.get_num_threads()}")


@pytest.mark.parametrize("is_set", [False, True])
def test_study_processes_share_cores_and_use_the_set_threads(
    is_set: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if is_set:
        monkeypatch.setenv("OMP_NUM_THREADS", str(available_cores()))
    each = max(1, available_cores() // 2)
    with worker_pool(Workers(jobs=2, device="cpu")) as do:
        assert list(do(write_cores_and_threads, [str(tmp_path)])) == [None]  # type: ignore[list-item]
    assert (tmp_path / "numbers").read_text() == f"{each} {available_cores() if is_set else each}"
    assert "LOCAL_WORLD_SIZE" not in os.environ
