"""A damaged or replaced file of a run causes an error that names it, and no model is promoted."""

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
    """Return a workspace with a champion and a drop that landed after its training."""
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


def replace_file(workspace: Workspace, name: str, data: bytes) -> None:
    """Replace a file of the champion's run and record its new digest, as a person with write access could."""
    workspace.store.objects.write(key(workspace, name), data)
    digest = {MODEL: "model_digest", INDEX: "index_digest", MOMENTS: "moments_digest"}[name]
    files = workspace.context.files(champion(workspace))
    result = files.result()
    assert result
    files.write_result(result.model_copy(update={digest: hashlib.sha256(data).hexdigest()}))


def assert_refused(workspace: Workspace, error: type[UserError], message: str) -> None:
    """Assert that the next retraining fails with this error, adds one failed record and changes nothing else."""
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
def test_run_file_with_a_wrong_digest_is_refused(
    workspace: Workspace, name: str, harm: Callable[[bytes], bytes]
) -> None:
    workspace.store.objects.write(key(workspace, name), harm(workspace.store.objects.read(key(workspace, name))[0]))
    assert_refused(
        workspace,
        RunError,
        r"is not the (model|learning-speed index|optimizer state) that the run ended with|not a valid safetensors file",
    )


@pytest.mark.parametrize("name", [MODEL, MOMENTS])
def test_missing_run_file_is_reported(workspace: Workspace, name: str) -> None:
    workspace.store.objects.delete(key(workspace, name))
    assert_refused(workspace, RunError, f"{name} is missing: restore it from a copy of the store")


@pytest.mark.parametrize("name", [MODEL, INDEX, MOMENTS])
def test_run_file_without_tensors_is_refused_despite_its_digest(workspace: Workspace, name: str) -> None:
    replace_file(workspace, name, b"\x80\x04}q\x00.")
    assert_refused(workspace, RunError, r"not a valid safetensors file")


def changed(workspace: Workspace, name: str, change: Callable[[Tensor], Tensor]) -> bytes:
    return save(
        {tensor: change(value) for tensor, value in load(workspace.store.objects.read(key(workspace, name))[0]).items()}
    )


@pytest.mark.parametrize("name", [MODEL, MOMENTS])
def test_weights_of_nan_are_refused_despite_their_digest(workspace: Workspace, name: str) -> None:
    replace_file(workspace, name, changed(workspace, name, lambda tensor: torch.full_like(tensor, torch.nan)))
    assert_refused(workspace, RunError, r"\w+ contains NaN: restore the file from a copy of the store")


def test_weights_of_another_shape_are_refused_despite_digest(workspace: Workspace) -> None:
    whole = workspace.store.objects.read(key(workspace, MODEL))[0]
    replace_file(workspace, MODEL, changed(workspace, MODEL, lambda tensor: tensor[..., :-1].contiguous()))
    assert_refused(workspace, ModelError, "the parent's weights do not fit the network at ")
    replace_file(workspace, MODEL, save({f"other.{name}": tensor for name, tensor in load(whole).items()}))
    assert_refused(workspace, ModelError, "the parent's weights do not fit the network at ")


def test_champion_that_cannot_be_measured_is_not_replaced(workspace: Workspace) -> None:
    planned = stages.plan(workspace.context, KEPT, Request(method="scratch"))
    assert isinstance(planned, Plan)
    trained = stages.train(workspace.context, planned)
    replace_file(workspace, MODEL, changed(workspace, MODEL, lambda tensor: tensor[:-1].contiguous()))
    with pytest.raises(ModelError, match=f"the weights of {champion(workspace)} do not match the network logistic"):
        stages.promote(workspace.context, trained)
    assert not champions.was_promoted(workspace.store.champion.read(), trained.run_id)


def test_learning_speeds_of_another_dataset_are_refused(workspace: Workspace) -> None:
    replace_file(workspace, INDEX, changed(workspace, INDEX, lambda tensor: tensor[:-5].contiguous()))
    assert_refused(workspace, RunError, r"counters of \d+ samples of drop d-\w+, but the drop has \d+")


def state(optimizer: Adam | Sgd, classes: int = 5) -> bytes:
    return save_state(run_of(configured(optimizer, classes)))


def configured(optimizer: Adam | Sgd, classes: int = 5) -> Plan:
    training = TASK.training.model_copy(update={"optimizer": optimizer})
    plan = plan_of(TASK.model_copy(update={"training": training}), classes=classes)
    plan.__dict__["run_id"] = "scratch-0"  # the same run id for different networks
    return plan


@pytest.mark.parametrize(
    "saved",
    [state(Adam(), classes=4), state(Sgd()), state(Adam())[:-10], b"", b"\x80\x04}q\x00."],
    ids=["other classes", "other optimizer", "truncated", "empty", "no tensors"],
)
def test_unusable_checkpoint_is_refused_and_changes_nothing(saved: bytes) -> None:
    run = run_of(configured(Adam()))
    before = save_state(run)
    with pytest.raises(RunError, match="saved"):
        load_state(run, saved)
    assert save_state(run) == before


def test_moments_of_another_optimizer_are_refused() -> None:
    adam, sgd = run_of(configured(Adam())), run_of(configured(Sgd()))
    with pytest.raises(RunError, match="the parent's optimizer state does not match at "):
        optimizers.load_moments(adam.optimizer, optimizers.moments(sgd.optimizer))
