"""Processes share cores by their work, a training uses only its own threads, and slow bfloat16 gets a warning."""

import logging
import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from support.trainings import CPU, TASK, commit_drops, context_of, stored_plan

from retrain.doctor.machine import check_machine
from retrain.pipeline.train import prepare, train_plan
from retrain.records import Loading
from retrain.store import LocalStore
from retrain.store.task_store import TaskStore
from retrain.training import setup
from retrain.training.hardware import (
    BF16_SLOW,
    DECODING,
    DECODING_BYTE,
    OPERATIONS,
    CoreShares,
    cores_beside_gpu,
    is_bf16_slow,
    share_cores,
    use_threads,
)
from retrain.utils import processes

PHOTOGRAPH = 100_000.0
"""Size of an image file in bytes."""
DECODED = DECODING + DECODING_BYTE * PHOTOGRAPH
"""Seconds that one core takes to decode this file."""
BF16 = TASK.model_copy(update={"training": TASK.training.model_copy(update={"bf16": True})})


@pytest.fixture(params=[2, 8, 64])
def cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the number of cores of this process, and of torch's threads."""
    count: int = request.param
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(processes, "QUOTA", Path("there-is-none"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(count))
    monkeypatch.setattr(torch, "get_num_threads", lambda: count)
    return count


def operations(seconds: float) -> float:
    """Return the number of operations that one core does in this time."""
    return OPERATIONS * seconds


def test_little_decoding_runs_between_steps_with_all_threads(cores: int) -> None:
    assert share_cores(None, PHOTOGRAPH, operations(1.01 * cores**2 * DECODED)) == CoreShares(0, cores)
    assert share_cores(1, PHOTOGRAPH, operations(1.01 * cores**2 * DECODED)) == CoreShares(1, cores)


def test_decoding_as_slow_as_training_gets_half_the_cores(cores: int) -> None:
    assert share_cores(None, PHOTOGRAPH, operations(DECODED)) == CoreShares(
        min(16, cores // 2 + 1), cores - min(16, cores // 2)
    )


def test_training_keeps_a_thread_if_decoding_dominates(cores: int) -> None:
    assert share_cores(None, PHOTOGRAPH, 1) == CoreShares(min(16, cores + 1), max(1, cores - 16))


def test_requested_workers_get_their_own_cores(cores: int) -> None:
    assert share_cores(1, PHOTOGRAPH, operations(DECODED)) == CoreShares(1, cores - 1)
    assert share_cores(64, PHOTOGRAPH, operations(DECODED)) == CoreShares(64, cores // 2)
    assert share_cores(0, PHOTOGRAPH, operations(DECODED)) == CoreShares(0, cores)


def test_all_cores_but_one_decode_beside_a_gpu(cores: int) -> None:
    assert cores_beside_gpu(None) == CoreShares(min(16, cores - 1), cores)
    assert cores_beside_gpu(3) == CoreShares(3, cores)


def test_processes_that_train_together_share_the_cores_first(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = share_cores(None, PHOTOGRAPH, operations(DECODED))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(2 * cores))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert share_cores(None, PHOTOGRAPH, operations(DECODED)) == alone


@pytest.mark.parametrize("threads", [1, 3])
def test_requested_threads_are_kept_on_every_machine(cores: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert share_cores(None, PHOTOGRAPH, operations(DECODED)).training == threads


def test_use_threads_sets_and_restores_the_number() -> None:
    before = torch.get_num_threads()
    with suppress(KeyError), use_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before


def test_streamed_run_records_its_training_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(setup, "share_cores", lambda *what: CoreShares(0, threads + 2))
    commit_drops(tmp_path)
    streamed = Loading(kind="stream", reason="asked for")
    plan = stored_plan(tmp_path, drops=1).model_copy(update={"loading": streamed})
    assert train_plan(context_of(tmp_path), plan).machine.threads == threads + 2
    assert torch.get_num_threads() == threads


def test_bf16_is_slow_only_on_cpus_without_long_vectors() -> None:
    vectors = "avx512bw" in Path("/proc/cpuinfo").read_text().split()
    assert is_bf16_slow(True, CPU) == (not vectors)
    assert not is_bf16_slow(False, CPU)
    assert not is_bf16_slow(True, torch.device("cuda"))


@pytest.mark.parametrize("slow", [True, False])
def test_doctor_and_run_warn_of_slow_bfloat16(
    slow: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: not slow)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    commit_drops(tmp_path)
    with caplog.at_level(logging.WARNING, "retrain"):
        prepare(context_of(tmp_path), stored_plan(tmp_path, drops=1, task=BF16)).loader.close()
    assert (BF16_SLOW in caplog.text) == slow
    store = TaskStore(LocalStore(tmp_path / "store"), BF16.name)
    device = {finding.check: finding for finding in check_machine(BF16, store, ())}["device"]
    assert (BF16_SLOW in device.found) == slow
