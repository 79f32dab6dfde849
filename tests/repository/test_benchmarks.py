"""Benchmarks that no other test imports: they run at a small size, or find the functions that they time."""

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
    """Without a GPU, on a machine that has one too."""
    environment = {**os.environ, "PYTHONPATH": f"{BENCHMARKS}:{BENCHMARKS.parent}", "CUDA_VISIBLE_DEVICES": ""}
    command = [preloaded_python(), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_gpu_benchmark_prints_speeds_and_their_shares() -> None:
    figures = json.loads(run("-c", SMALL))
    assert [result["batch"] for result in figures["results"]] == [8, 16]
    for result in figures["results"]:
        ours, theirs = (result["images per second"][way] for way in ("none", "dataloader"))
        assert min(ours, theirs) > 0
        rounding = ours / theirs * (0.5 / ours + 0.5 / theirs)  # of the speeds as printed; slow ones on a busy machine
        assert result["times as fast as the dataloader"]["none"] == pytest.approx(ours / theirs, abs=0.01 + rounding)
        assert result["share of the limit"]["none"] == pytest.approx(
            ours / figures["limit, images per second"], rel=0.1, abs=6e-4
        )


def test_gpu_benchmark_without_gpu_says_it_measured_nothing() -> None:
    assert run(str(BENCHMARKS / "gpu.py")) == "no GPU here: nothing was measured\n"


def test_drop_benchmark_times_functions_that_exist() -> None:
    assert run("-c", STAGES) == "[]\n"
