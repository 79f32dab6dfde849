"""Damaged or exchanged files of runs give a clear error with their name, and nothing is promoted."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from support.trainings import TASK, plan_of, run_of
from support.workspaces import Workspace, make_task
from torch import Tensor

from retrain.config.optimizers import Adam, Sgd
from retrain.errors import ModelError, RunError, UserError
from retrain.pipeline import stages
from retrain.pipeline.planning import Request
from retrain.records import Plan, RunRecord
from retrain.store import LocalStore, champions
from retrain.training import optimizers
from retrain.training.state import load_state, save_state

KEPT = make_task(training={**make_task().training.model_dump(), "optimizer_state": "kept"})
MODEL, INDEX, MOMENTS = "model.safetensors", "learning_speed/{drop}.safetensors", "moments.safetensors"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Return a champion, and a drop that has landed since."""
    workspace = Workspace(LocalStore(tmp_path / "store"), tmp_path)
    workspace.land(0, 1)
    assert isinstance(stages.run_task(workspace.context, KEPT, Request()), RunRecord)
    workspace.land(0, 1, seed=1)
    return workspace


def champion(workspace: Workspace) -> str:
    run_id = workspace.store.champion.read().run_id
    assert run_id
    return run_id


def key(workspace: Workspace, name: str) -> str:
    run_id = champion(workspace)
    return workspace.store.keys.run(
        run_id, name.format(drop=workspace.context.files(run_id).plan().dataset.drops[0].id)
    )


def exchange(workspace: Workspace, name: str, data: bytes) -> None:
    """Replace the bytes, and put their digest into the result, as a person with write access could."""
    workspace.store.objects.write(key(workspace, name), data)
    digest = {MODEL: "model_digest", INDEX: "index_digest", MOMENTS: "moments_digest"}[name]
    files = workspace.context.files(champion(workspace))
    result = files.result()
    assert result
    files.write_result(result.model_copy(update={digest: hashlib.sha256(data).hexdigest()}))


def refused(workspace: Workspace, error: type[UserError], message: str) -> None:
    """The next retraining ends with this error and one failed record of it; all else is as it was."""
    before, records = champion(workspace), workspace.store.ledger.read()
    planned = stages.plan(workspace.context, KEPT, Request())
    assert isinstance(planned, Plan)
    with pytest.raises(error, match=message) as raised:
        stages.run_task(workspace.context, KEPT, Request())
    assert champion(workspace) == before
    *earlier, failed = workspace.store.ledger.read()
    assert earlier == records
    assert (failed.run_id, failed.outcome, failed.error) == (planned.run_id, "failed", str(raised.value))
    assert (failed.result, failed.evaluation, failed.decision) == (None, None, None)


@pytest.mark.parametrize("name", [MODEL, INDEX, MOMENTS])
@pytest.mark.parametrize(
    "harm",
    [lambda data: data[:-1], lambda data: b"", lambda data: data[:-1] + bytes([data[-1] ^ 1])],
    ids=["truncated", "empty", "one bit"],
)
def test_run_file_with_another_digest_is_refused(
    workspace: Workspace, name: str, harm: Callable[[bytes], bytes]
) -> None:
    workspace.store.objects.write(key(workspace, name), harm(workspace.store.objects.read(key(workspace, name))[0]))
    refused(
        workspace,
        RunError,
        r"is not the (model|learning-speed index|optimizer state) that the run ended with|holds no tensors",
    )


@pytest.mark.parametrize("name", [MODEL, MOMENTS])
def test_file_that_is_gone_is_named(workspace: Workspace, name: str) -> None:
    workspace.store.objects.delete(key(workspace, name))
    refused(workspace, RunError, f"{name} is missing: restore it from a copy of the store")


@pytest.mark.parametrize("name", [MODEL, INDEX, MOMENTS])
def test_run_file_without_tensors_is_refused_despite_its_digest(workspace: Workspace, name: str) -> None:
    exchange(workspace, name, b"\x80\x04}q\x00.")
    refused(workspace, RunError, r"holds no tensors")


def changed(workspace: Workspace, name: str, change: Callable[[Tensor], Tensor]) -> bytes:
    return save(
        {tensor: change(value) for tensor, value in load(workspace.store.objects.read(key(workspace, name))[0]).items()}
    )


@pytest.mark.parametrize("name", [MODEL, MOMENTS])
def test_weights_of_nan_are_refused_despite_their_digest(workspace: Workspace, name: str) -> None:
    exchange(workspace, name, changed(workspace, name, lambda tensor: torch.full_like(tensor, torch.nan)))
    refused(workspace, RunError, r"\w+ contains NaN: restore the file from a copy of the store")


def test_weights_of_another_shape_are_refused_despite_digest(workspace: Workspace) -> None:
    whole = workspace.store.objects.read(key(workspace, MODEL))[0]
    exchange(workspace, MODEL, changed(workspace, MODEL, lambda tensor: tensor[..., :-1].contiguous()))
    refused(workspace, ModelError, "the parent's weights do not fit the network at ")
    exchange(workspace, MODEL, save({f"other.{name}": tensor for name, tensor in load(whole).items()}))
    refused(workspace, ModelError, "the parent's weights do not fit the network at ")


def test_champion_that_cannot_be_measured_is_not_replaced(workspace: Workspace) -> None:
    planned = stages.plan(workspace.context, KEPT, Request(method="scratch"))
    assert isinstance(planned, Plan)
    trained = stages.train(workspace.context, planned)
    exchange(workspace, MODEL, changed(workspace, MODEL, lambda tensor: tensor[:-1].contiguous()))
    with pytest.raises(ModelError, match=f"the weights of {champion(workspace)} do not match the network logistic"):
        stages.promote(workspace.context, trained)
    assert not champions.was_promoted(workspace.store.champion.read(), trained.run_id)


def test_index_of_another_dataset_is_refused_despite_its_digest(workspace: Workspace) -> None:
    exchange(workspace, INDEX, changed(workspace, INDEX, lambda tensor: tensor[:-5].contiguous()))
    refused(workspace, RunError, r"counters of \d+ samples of drop d-\w+, but the drop has \d+")


def state(optimizer: Adam | Sgd, classes: int = 5) -> bytes:
    return save_state(run_of(configured(optimizer, classes)))


def configured(optimizer: Adam | Sgd, classes: int = 5) -> Plan:
    training = TASK.training.model_copy(update={"optimizer": optimizer})
    plan = plan_of(TASK.model_copy(update={"training": training}), classes=classes)
    plan.__dict__["run_id"] = "scratch-0"  # states of one run, though they fit different networks
    return plan


@pytest.mark.parametrize(
    "saved",
    [state(Adam(), classes=4), state(Sgd()), state(Adam())[:-10], b"", b"\x80\x04}q\x00."],
    ids=["other classes", "other optimizer", "truncated", "empty", "no tensors"],
)
def test_misfit_state_is_refused_and_changes_nothing(saved: bytes) -> None:
    run = run_of(configured(Adam()))
    before = save_state(run)
    with pytest.raises(RunError, match="saved"):
        load_state(run, saved)
    assert save_state(run) == before


def test_moments_of_another_optimizer_are_refused() -> None:
    adam, sgd = run_of(configured(Adam())), run_of(configured(Sgd()))
    with pytest.raises(RunError, match="the parent's optimizer state does not match at "):
        optimizers.carry_over(adam.optimizer, optimizers.moments(sgd.optimizer))
