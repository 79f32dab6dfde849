"""A user who trains in bfloat16 on a CPU that is slow in it gets a warning."""

import logging
from pathlib import Path

import pytest
import torch
from support.trainings import CPU, TASK, commit_drops, context_of, stored_plan

from retrain.doctor.machine import check_machine
from retrain.pipeline.train import prepare
from retrain.store import LocalStore
from retrain.store.task_store import TaskStore
from retrain.training.hardware import BF16_SLOW, is_bf16_slow

BF16 = TASK.model_copy(update={"training": TASK.training.model_copy(update={"bf16": True})})


def test_bfloat16_is_slow_on_cpus_without_long_vectors_alone() -> None:
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
