"""Compiled forward passes give the same training, or an error if this machine cannot compile."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from support.programs import need
from support.trainings import CPU, TASK, commit_drops, context_of, plan_of, stored_plan
from torch import nn

from retrain.config.task import Model, Task
from retrain.errors import TaskError
from retrain.pipeline.planning import equal_work
from retrain.pipeline.train import train_plan
from retrain.training.hardware import compile_forward


def task_with(compile: str) -> Task:
    training = TASK.training.model_copy(update={"compile": compile, "epochs": 3.0, "save_seconds": 60})
    return TASK.model_copy(update={"model": Model(name="logistic"), "training": training})


def test_compiled_run_trains_like_an_uncompiled_run(tmp_path: Path) -> None:
    need("g++", "g++ python3-dev")
    commit_drops(tmp_path)
    losses = []
    for how in ("none", "compile"):
        plan, context = stored_plan(tmp_path, drops=1, task=task_with(how)), context_of(tmp_path / how)
        for drop in context_of(tmp_path).store.objects.list("pets/drops/"):
            context.store.objects.write(drop.key, context_of(tmp_path).store.objects.read(drop.key)[0])
        train_plan(context, plan)
        losses.append([point.train_loss for point in context.files(plan.run_id).curve().points])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_compile_setting_changes_neither_plan_nor_baseline() -> None:
    assert plan_of(task_with("none")).run_id == plan_of(task_with("compile")).run_id
    assert equal_work(task_with("none"), task_with("graphs"))


@pytest.mark.parametrize("how", ["graphs", "step"])
def test_graphs_are_refused_without_a_gpu(how: Literal["graphs", "step"]) -> None:
    with pytest.raises(TaskError, match=rf"training\.compile: {how} needs a CUDA device, and this is cpu"):
        compile_forward(nn.Linear(2, 2), how, CPU)


def test_step_setting_works_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "a-compiler-that-is-not-there")
    network = nn.Linear(2, 2)
    assert compile_forward(network, "step", torch.device("cuda")) is network


def test_missing_compiler_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "a-compiler-that-is-not-there")
    with pytest.raises(
        TaskError, match=r"training\.compile: torch needs a C\+\+ compiler, .* install g\+\+, or use none"
    ):
        compile_forward(nn.Linear(2, 2), "compile", torch.device("cuda"))
