"""A saved state is complete: a run that is loaded from it continues with the same results, bit for bit."""

from pathlib import Path

import pytest
import torch
from support.trainings import TASK, RecordingObserver, context_of, plan_of, run_of
from torch import nn

from retrain.config.optimizers import Adam, AdamW, Optimizer, Sgd
from retrain.config.recipe import Constant
from retrain.config.task import Averaging, ExponentialAverage, Model, NoAverage, PowerAverage
from retrain.errors import RunError
from retrain.records import Plan
from retrain.training.loop import run_loop
from retrain.training.setup import Run
from retrain.training.state import load_state, save_state

OPTIMIZERS = [Adam(), AdamW(), Sgd(), Sgd(momentum=0.0), Sgd(nesterov=True, weight_decay=0.01)]


def plan_with(optimizer: Optimizer, seed: int = 0) -> Plan:
    """Return a plan of eleven iterations with 32 samples each.

    An epoch has 80 samples, so only the fifth and the tenth iteration end together with an epoch.
    """
    training = TASK.training.model_copy(update={"optimizer": optimizer, "save_seconds": 0})
    plan = plan_of(TASK.model_copy(update={"training": training, "seed": seed}), sizes=(80,))
    return plan.model_copy(update={"iterations": 11, "evaluate_every": 4})


def states_of(run: Run) -> list[bytes]:
    """Train to the end, and return the state after every iteration."""
    states: list[bytes] = []
    run_loop(run, RecordingObserver(), lambda run: states.append(save_state(run)), lambda: False)
    return states


def assert_equal(run: Run, other: Run) -> None:
    assert run.progress.points == other.progress.points
    assert run.progress.evaluated_images == other.progress.evaluated_images
    for name, tensor in run.network.state_dict().items():
        assert torch.equal(tensor, other.network.state_dict()[name]), name
    for name, tensor in run.average.network().state_dict().items():
        assert torch.equal(tensor, other.average.network().state_dict()[name]), name
    assert torch.equal(run.counters.seen, other.counters.seen)
    assert torch.equal(run.counters.correct, other.counters.correct)
    assert torch.equal(run.counters.loss, other.counters.loss)
    assert run.loader.position == other.loader.position


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["adam", "adamw", "sgd", "plain sgd", "nesterov"])
def test_state_loaded_at_any_iteration_gives_the_same_result(optimizer: Optimizer) -> None:
    plan = plan_with(optimizer)
    full = run_of(plan)
    states = states_of(full)
    assert len(states) == plan.iterations
    for iteration, state in enumerate(states, 1):
        resumed = run_of(plan)
        torch.rand(iteration)  # a new process has another random state
        load_state(resumed, state)
        assert resumed.progress.iteration == iteration
        assert len(states_of(resumed)) == plan.iterations - iteration
        assert_equal(resumed, full)


@pytest.mark.parametrize("averaging", [PowerAverage(), ExponentialAverage(decay=0.8), NoAverage()], ids=str)
def test_resumed_run_with_averaging_equals_uninterrupted_run(averaging: Averaging) -> None:
    plan = plan_with(Adam())
    recipe = plan.recipe.model_copy(update={"schedule": Constant(warmup=3)})
    plan = plan.model_copy(update={"averaging": averaging, "recipe": recipe})
    full = run_of(plan)
    for iteration, state in enumerate(states_of(full), 1):
        resumed = run_of(plan)
        load_state(resumed, state)
        assert save_state(resumed) == state
        assert len(states_of(resumed)) == plan.iterations - iteration
        assert_equal(resumed, full)


def test_saving_a_loaded_state_gives_the_same_bytes() -> None:
    plan = plan_with(Adam())
    state = states_of(run_of(plan))[4]
    run = run_of(plan)
    load_state(run, state)
    assert save_state(run) == state


def test_saved_state_is_independent_of_later_steps() -> None:
    run = run_of(plan_with(Adam()))
    first: list[bytes] = []
    run_loop(run, RecordingObserver(), lambda run: first.append(save_state(run)), lambda: False)
    again = run_of(plan_with(Adam()))
    load_state(again, first[0])
    assert again.progress.iteration == 1
    assert not torch.equal(again.network.get_parameter("0.weight"), run.network.get_parameter("0.weight"))


def test_state_of_another_run_is_refused() -> None:
    state = states_of(run_of(plan_with(Adam())))[0]
    other = run_of(plan_with(Adam(), seed=1))
    before = other.network.get_parameter("0.weight").clone()
    with pytest.raises(RunError, match=r"the saved state of run scratch-\w+ is not a state of run scratch-"):
        load_state(other, state)
    assert torch.equal(other.network.get_parameter("0.weight"), before)


def tied_net(classes: int, image_size: int) -> nn.Module:
    """Return a network in which two layers have the same weights."""
    first, second = nn.Linear(3 * image_size**2, 3 * image_size**2), nn.Linear(3 * image_size**2, 3 * image_size**2)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.Linear(3 * image_size**2, classes))


def test_run_with_tied_weights_is_saved_and_resumed(tmp_path: Path) -> None:
    task = TASK.model_copy(update={"model": Model(name=f"{__name__}:tied_net")})
    plan = plan_of(task).model_copy(update={"averaging": PowerAverage(), "iterations": 6})
    run = run_of(plan)
    states = states_of(run)
    resumed = run_of(plan)
    load_state(resumed, states[2])
    run_loop(resumed, RecordingObserver(), lambda run: None, lambda: False)
    assert_equal(resumed, run)
    context_of(tmp_path).files(plan.run_id).write_model(run.average.network().state_dict())
