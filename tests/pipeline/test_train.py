"""A training stores the files of its run once, and verifies the parent's files before it uses them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from support.trainings import SIZE, TASK, RecordingObserver, commit_drops, context_of, stored_plan
from torch import Tensor

from retrain.config.optimizers import Sgd
from retrain.config.task import Model
from retrain.data.augment import Normalize
from retrain.errors import ModelError, RunError
from retrain.models import factory
from retrain.pipeline import stages
from retrain.pipeline.train import train_plan
from retrain.records import Plan
from retrain.training.evaluation import measure

MODEL = "model.safetensors"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder whose store holds two drops."""
    commit_drops(tmp_path)
    return tmp_path


def train(place: Path, plan: Plan) -> Plan:
    train_plan(context_of(place), plan)
    return plan


def key(plan: Plan, name: str) -> str:
    return f"{TASK.name}/runs/{plan.run_id}/{name}"


def counters(place: Path, plan: Plan, drop: int) -> dict[str, Tensor]:
    """Return the learning-speed counters of one drop, read from the store."""
    name = f"learning_speed/{plan.dataset.drops[drop].id}.safetensors"
    return load(context_of(place).store.objects.read(key(plan, name))[0])


def test_ended_run_leaves_its_files_and_no_checkpoint(place: Path) -> None:
    observer = RecordingObserver()
    plan = stored_plan(place, drops=1)
    result = train_plan(context_of(place, observer), plan)
    files = context_of(place).files(plan.run_id)
    drop = plan.dataset.drops[0]
    names = ["curve.jsonl", f"learning_speed/{drop.id}.safetensors", MODEL, "plan.json", "result.json"]
    assert [entry.key for entry in files.objects.list(key(plan, ""))] == [key(plan, name) for name in names]
    assert files.result() == result
    assert list(files.curve().points) == observer.points
    assert result.outcome == observer.outcome == "completed"
    assert result.final_accuracy == observer.points[-1].accuracy
    assert result.iterations == plan.iterations
    assert result.cost.samples == plan.iterations * 32 == counters(place, plan, 0)["seen"].sum()


def test_saved_model_is_the_evaluated_model(place: Path) -> None:
    plan = stored_plan(place, drops=2)
    context = context_of(place)
    result = train_plan(context, plan)
    network = factory.build_network(TASK.model, len(plan.dataset.classes), SIZE, seed=9)
    network.load_state_dict(context.files(plan.run_id).weights())
    val = context.samples(plan.dataset, ("val",), TASK.data, plan.loading)["val"]
    measured = measure(network, val, torch.arange(len(val.labels)), Normalize(TASK.data), needed=0.0)
    assert measured.accuracy == result.final_accuracy
    assert result.final_accuracy > 0.5


def test_second_call_trains_nothing(place: Path) -> None:
    plan = train(place, stored_plan(place, drops=1))
    observer = RecordingObserver()
    result = train_plan(context_of(place, observer), plan)
    assert observer.stepped_to == []
    assert result == context_of(place).files(plan.run_id).result()


def test_parents_counters_are_kept_with_half_their_weight(place: Path) -> None:
    parent = train(place, stored_plan(place, drops=1))
    child = train(place, stored_plan(place, drops=2, parent=parent))
    parents, old, new = counters(place, parent, 0), counters(place, child, 0), counters(place, child, 1)
    own = old["seen"].float() - 0.5 * parents["seen"].float()
    assert torch.equal(own, own.round())
    assert own.sum() + new["seen"].sum() == 32 * child.iterations
    assert torch.all(old["correct"] >= 0.5 * parents["correct"])
    assert torch.all(old["correct"] <= old["seen"])


def test_scratch_run_starts_its_counters_at_zero(place: Path) -> None:
    plan = train(place, stored_plan(place, drops=2))
    assert sum(counters(place, plan, drop)["seen"].sum() for drop in (0, 1)) == 32 * plan.iterations


def test_diverged_run_is_recorded_with_a_curve_and_no_model(place: Path) -> None:
    training = TASK.training.model_copy(update={"optimizer": Sgd(learning_rate=1e30)})
    plan = stored_plan(place, drops=1, task=TASK.model_copy(update={"training": training}))
    context = context_of(place)
    result = train_plan(context, plan)
    assert (result.outcome, result.model_digest, result.weight_scale) == ("diverged", None, None)
    assert context.files(plan.run_id).curve().points[-1].train_loss is None
    record = stages.record(context, plan)
    assert (record.outcome, record.decision) == ("diverged", None)


def test_parent_of_another_network_is_refused(place: Path) -> None:
    parent = train(place, stored_plan(place, drops=1))
    other = TASK.model_copy(update={"model": Model(name="mlp")})
    with pytest.raises(ModelError, match="the parent's weights do not fit the network at"):
        train_plan(context_of(place), stored_plan(place, drops=2, parent=parent, task=other))


@pytest.mark.parametrize("name", [MODEL, "learning_speed/{drop}.safetensors"])
@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"\x01", lambda data: b""])
def test_parents_damaged_file_is_refused_by_name(place: Path, name: str, damage: object) -> None:
    parent = train(place, stored_plan(place, drops=1))
    store = context_of(place).store.objects
    damaged = key(parent, name.format(drop=parent.dataset.drops[0].id))
    store.write(damaged, damage(store.read(damaged)[0]))
    with pytest.raises(
        RunError, match=rf"{parent.run_id}/{name.split('{')[0]}.* (is not the .* that the run ended|is not a valid)"
    ):
        train_plan(context_of(place), stored_plan(place, drops=2, parent=parent))
