"""A plan chooses the start of a run from the record of its parent."""

import pytest
from support.histories import DEFAULT_TASK, drop, one_drop

from retrain.config.optimizers import Adam
from retrain.config.task import Task


@pytest.mark.parametrize(
    ("changes", "network", "alpha", "reason"),
    [
        ({"train_accuracy": 0.99}, "resnet18", 0.4, "the parent is fitted"),
        ({"train_accuracy": 0.8}, "resnet18", 0.8, "under-fitted"),
        ({}, "resnet18", 0.4, "unknown"),
        ({"train_accuracy": 0.99, "normalised": False}, "resnet18", 0.8, "without BatchNorm"),
        ({"train_accuracy": 0.99}, "mlp", 0.8, "without BatchNorm"),
        ({"train_accuracy": 0.99}, "vgg11", 0.8, "without BatchNorm"),
        ({"train_accuracy": 0.99}, "vgg11_bn", 0.4, "the parent is fitted"),
        ({"train_accuracy": 0.99}, "vit_b_16", 0.8, "without BatchNorm"),
        ({"train_accuracy": 0.99}, "some.module:factory", 0.8, "without BatchNorm"),
        ({"train_accuracy": 0.99, "normalised": True}, "some.module:factory", 0.4, "the parent is fitted"),
    ],
)
def test_start_is_chosen_by_the_parents_record(
    changes: dict[str, object], network: str, alpha: float, reason: str
) -> None:
    task = DEFAULT_TASK.model_copy(update={"model": DEFAULT_TASK.model.model_copy(update={"name": network})})
    past = one_drop(task).landed(drop(2))
    record = past.records[-1]
    past.records[-1] = record.model_copy(update={"result": record.result.model_copy(update=changes)})
    plan = past.plan()
    assert plan.recipe.initialization.alpha == alpha
    assert reason in plan.start
    assert plan.recipe.schedule.name == "constant", "the parent's record has no weight scale"


@pytest.mark.parametrize(
    ("optimizer", "output_change", "rate"),
    [
        ({"name": "adam", "learning_rate": 0.001}, 500.0, 7.0),
        ({"name": "adam", "learning_rate": 0.01}, 500.0, 0.7),
        ({"name": "adam", "learning_rate": 0.001}, None, 2.0),
        ({"name": "sgd"}, 500.0, 1.0),
    ],
)
def test_rate_of_a_perceptron_follows_from_its_weights(
    optimizer: dict[str, object], output_change: float | None, rate: float
) -> None:
    training = {"epochs": 10, "batch_size": 10, "optimizer": optimizer}
    task = Task.model_validate({"name": "pets", "model": {"name": "mlp"}, "training": training})
    past = one_drop(task).landed(drop(2))
    changes = {"normalised": False, "weight_scale": 1 / 30, "output_change": output_change}
    record = past.records[-1]
    past.records[-1] = record.model_copy(update={"result": record.result.model_copy(update=changes)})
    assert past.plan().recipe.initialization.rate == rate


@pytest.mark.parametrize(
    ("optimizer", "weight_scale", "rate", "falls"),
    [
        ({"name": "adam", "learning_rate": 0.001}, 0.02, 1.2, True),
        ({"name": "adamw", "learning_rate": 0.002}, 0.02, 0.6, True),
        ({"name": "adam", "learning_rate": 0.001}, 0.03, 1.8, False),
        ({"name": "adam"}, None, 1.0, False),
        ({"name": "sgd"}, 0.02, 1.0, False),
    ],
)
def test_rate_without_batchnorm_follows_from_the_weights(
    optimizer: dict[str, object], weight_scale: float | None, rate: float, falls: bool
) -> None:
    """Adam's steps have the size of its learning rate. A layer of small weights needs smaller steps."""
    training = {"epochs": 10, "batch_size": 10, "optimizer": optimizer}
    past = one_drop(Task.model_validate({"name": "pets", "training": training})).landed(drop(2))
    record = past.records[-1]
    changes = {"train_accuracy": 0.99, "normalised": False, "weight_scale": weight_scale}
    past.records[-1] = record.model_copy(update={"result": record.result.model_copy(update=changes)})
    plan = past.plan()
    assert plan.recipe.initialization.rate == rate
    assert plan.recipe.schedule.name == ("inverse_time" if falls else "constant")
    assert ("learning rate falls" in plan.start) == falls


def test_rate_stays_constant_from_pretrained_weights() -> None:
    """Weights are shrunk towards the pretrained weights. Even without BatchNorm, they keep their size."""
    network = {"name": "convnext_tiny", "pretrained": "weights.safetensors", "pretrained_sha256": "0" * 64}
    task = Task.model_validate({"name": "pets", "model": network, "training": {"epochs": 10, "batch_size": 10}})
    past = one_drop(task).landed(drop(2))
    record = past.records[-1]
    changes = {"normalised": False, "weight_scale": 0.01}
    past.records[-1] = record.model_copy(update={"result": record.result.model_copy(update=changes)})
    assert past.plan().recipe.schedule.name == "constant"


def test_start_under_sgd_shrinks_as_under_adam() -> None:
    training = {"epochs": 10, "batch_size": 10, "optimizer": {"name": "sgd"}}
    task = Task.model_validate({"name": "pets", "training": training})
    adam = task.model_copy(update={"training": task.training.model_copy(update={"optimizer": Adam()})})
    starts = [one_drop(each).landed(drop(2)).plan().recipe.initialization for each in (task, adam)]
    assert starts[0] == starts[1]
    assert starts[0].alpha == 0.4


def test_start_set_by_the_task_is_kept_and_reported() -> None:
    plan = one_drop().landed(drop(2)).plan()
    assert plan.recipe.initialization.name == "shrink_perturb"
    assert plan.start == "The task sets recipe.initialization to shrink_perturb."
