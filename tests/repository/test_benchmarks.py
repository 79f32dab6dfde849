"""Benchmarks that no other test imports: the tests run them at a small size, or check that timed functions exist."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from support.processes import preloaded_python

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = """
import json
import torch
from gpu import measure
from lib.noise import Case
print(json.dumps(measure(Case(4, 8), (8, 16), ("none",), 2, 16, 64, torch.device("cpu"), (0, 1))))
"""
STAGES = """
from lib.drop_stages import STAGES
print([f"{owner.__name__}.{function}" for owner, function, _ in STAGES if not hasattr(owner, function)])
"""


def run(*arguments: str) -> str:
    """Run Python without access to a GPU, and return the output."""
    environment = {**os.environ, "PYTHONPATH": f"{BENCHMARKS}:{BENCHMARKS.parent}", "CUDA_VISIBLE_DEVICES": ""}
    command = [preloaded_python(), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_gpu_benchmark_prints_speeds_and_their_shares() -> None:
    figures = json.loads(run("-c", SMALL))
    assert [result["batch"] for result in figures["results"]] == [8, 16]
    for result in figures["results"]:
        fast, slow = (result["images per second"][way] for way in ("none", "dataloader"))
        assert min(fast, slow) > 0
        rounding = fast / slow * (0.5 / fast + 0.5 / slow)  # the printed speeds are rounded
        assert result["times as fast as the dataloader"]["none"] == pytest.approx(fast / slow, abs=0.01 + rounding)
        assert result["share of the limit"]["none"] == pytest.approx(
            fast / figures["limit, images per second"], rel=0.1, abs=6e-4
        )


def test_gpu_benchmark_without_gpu_reports_no_measurement() -> None:
    assert run(str(BENCHMARKS / "gpu.py")) == "no GPU here: nothing was measured\n"


def test_drop_benchmark_times_existing_functions() -> None:
    assert run("-c", STAGES) == "[]\n"
