"""A plan warns of settings without effect, of short trainings and of single classes."""

import pytest
from support.histories import TASK, Past, configured, drop, one_drop

from retrain.pipeline.planning import Request


@pytest.mark.parametrize(
    ("training", "warning"),
    [
        ({"class_weights": "inverse", "balanced_sampling": True}, "both correct for rare classes: set one of them"),
        ({"warmup": 500}, "training.warmup 500 is not shorter than scratch's 500 iterations"),
        ({"class_weights": "inverse", "warmup": 499}, None),
        ({"batch_size": 501}, "training.batch_size 501 is larger than the 500 training samples"),
        ({"batch_size": 500, "evaluate_every": "auto"}, None),
        ({"evaluate_every": 10}, "evaluate_every 10 counts epochs, so scratch's training has only 1 evaluation."),
        ({"evaluate_every": 2}, "has only 5 evaluations."),
        ({"evaluate_every": 1}, None),
    ],
)
def test_plan_warns_of_settings_without_effect(training: dict[str, object], warning: str | None) -> None:
    plan = Past().landed(drop(1)).plan(task=configured(training={**TASK.training.model_dump(), **training}))
    given = [text for text in plan.warnings if text.startswith("training.")]
    assert len(given) == (warning is not None)
    assert all(str(warning) in text for text in given)


def _short_trainings(training: dict[str, object], **model: object) -> list[str]:
    task = configured(training={**TASK.training.model_dump(), **training}, model={**TASK.model.model_dump(), **model})
    return [text for text in Past().landed(drop(1)).plan(task=task).warnings if text.startswith("scratch has only")]


@pytest.mark.parametrize(
    ("training", "few", "advice"),
    [
        ({"epochs": 10, "batch_size": 128}, "39 iterations", "set training.batch_size to 16, or training.epochs to 77"),
        ({"epochs": 1, "batch_size": 64}, "8 iterations", "allow: set training.epochs to 39 or more"),
        ({"epochs": 1, "batch_size": 16}, "31 iterations", "allow: set training.epochs to 10 or more"),
        ({"epochs": 0.01, "batch_size": 16}, "1 iteration", "allow: set training.epochs to 10 or more"),
        ({"iterations": 20}, "20 iterations", "allow: set training.iterations to 300 or more"),
    ],
)
def test_plan_warns_of_a_short_training_from_scratch(training: dict[str, object], few: str, advice: str) -> None:
    [given] = _short_trainings(training)
    assert f"only {few}, " in given
    assert advice in given


def test_long_or_pretrained_training_gives_no_warning() -> None:
    assert _short_trainings({"epochs": 5, "batch_size": 16}) == []
    assert _short_trainings({"epochs": 1, "batch_size": 16}, pretrained="weights.safetensors") == []


def test_plan_warns_of_a_single_class() -> None:
    for classes, warned in ((("cat",), True), (("cat", "dog"), False)):
        plan = Past().landed(drop(1, classes=classes)).plan()
        assert any("only one class, 'cat', so any model is always right" in text for text in plan.warnings) is warned


def test_plan_warns_of_a_trial_that_knows_all_its_drops() -> None:
    past = one_drop()
    trial = Request(purpose="trial")
    [given] = [text for text in past.plan(trial).warnings if text.startswith(past.champion.run_id)]
    assert "Do not compare their iterations: compare presets with `retrain study recommend --task pets`" in given
    for plan in (past.plan(Request("scratch", "trial")), past.landed(drop(2)).plan(trial), past.plan()):
        assert not any("Do not compare" in text for text in plan.warnings)
