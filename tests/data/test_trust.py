"""Only code that the image ships and the task file names is run. The store cannot choose code."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.workspaces import Workspace, make_task
from torch import nn

from retrain.config.loading import load_task
from retrain.config.task import Model
from retrain.errors import ModelError, TaskError
from retrain.models import factory
from retrain.pipeline import stages
from retrain.pipeline.context import make_context
from retrain.pipeline.planning import Request
from retrain.records import Plan, RunRecord
from retrain.store import LocalStore

RAN: list[str] = []


def network(classes: int, image_size: int) -> nn.Module:
    return factory.logistic(classes, image_size)


def hostile(classes: int, image_size: int, **options: str) -> nn.Module:
    """Return a network, and record the call. This function represents code that an attacker wants to run."""
    RAN.append("hostile")
    return factory.logistic(classes, image_size)


ALLOWED, HOSTILE = f"{__name__}:network", f"{__name__}:hostile"
TASK = make_task(model=Model(name=ALLOWED))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Return a task with a champion and a waiting drop."""
    RAN.clear()
    workspace = Workspace(LocalStore(tmp_path / "store"), tmp_path)
    workspace.context = replace(make_context(workspace.store, TASK, "cpu"), cache=tmp_path / "cache")
    workspace.pack(0, 1)
    assert isinstance(stages.run_task(workspace.context, TASK, Request()), RunRecord)
    workspace.pack(1, 2, seed=1)
    return workspace


def plant(workspace: Workspace, run_id: str) -> None:
    """Change a plan in the store to name other code. An attacker with write access could do this."""
    key = workspace.store.keys.run(run_id, "plan.json")
    plan = json.loads(workspace.store.objects.read(key)[0])
    plan["task"]["model"] = {"name": HOSTILE, "stem": "small", "options": {"command": "id"}}
    plan["task"]["factories"] = [HOSTILE]
    workspace.store.objects.write(key, json.dumps(plan).encode())


def test_code_named_by_the_champions_plan_does_not_run(workspace: Workspace) -> None:
    plant(workspace, workspace.store.champion.read().run_id or "")
    with pytest.raises(
        ModelError,
        match=f"model {HOSTILE}: a plan in the store names this factory, but the task file does not allow it",
    ):
        stages.run_task(workspace.context, TASK, Request("naive"))
    assert RAN == []


def test_plan_naming_other_code_is_refused_before_it_runs(workspace: Workspace) -> None:
    planned = stages.plan(workspace.context, TASK, Request())
    assert isinstance(planned, Plan)
    plant(workspace, planned.run_id)
    with pytest.raises(ModelError, match="a plan in the store names this factory"):
        stages.run_plan(workspace.context, workspace.context.files(planned.run_id).plan())
    assert RAN == []


def test_champion_of_a_former_factory_is_compared_if_allowed(workspace: Workspace, tmp_path: Path) -> None:
    later = TASK.model_copy(update={"model": Model(name="logistic")})
    with pytest.raises(ModelError, match="add it to `factories` in the task file"):
        stages.run_task(make_context(workspace.store, later, "cpu"), later, Request("scratch"))
    allowing = later.model_copy(update={"factories": (ALLOWED,)})
    ended = stages.run_task(make_context(workspace.store, allowing, "cpu"), allowing, Request("scratch"))
    assert isinstance(ended, RunRecord)
    assert ended.evaluation
    assert ended.evaluation.comparison


def test_factory_that_is_not_a_name_of_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pets.yaml"
    path.write_text("name: pets\nfactories: ['os; evil', 'a.b:c']\n")
    with pytest.raises(TaskError, match="factories"):
        load_task(str(path))
