"""Tests of a run's initial weights and of the anchors of its penalty.

An anchor (theta_0) is the weights towards which a penalty pulls. The origin is the initial network of the scratch run
from which a continuous run descends.
"""

import pytest
import torch
from support.trainings import TASK, plan_of, run_of
from torch import Tensor, nn

from retrain.config.recipe import Ewc, L2Init, NoPenalty, Objective, Recipe, ShrinkPerturb, Uniform, Warm
from retrain.config.task import Model
from retrain.data.augment import Normalize
from retrain.errors import ModelError, TaskError
from retrain.models import factory
from retrain.recipe.analysis import fisher_diagonal
from retrain.recipe.learning_speed import Counters
from retrain.records import Origin
from retrain.training.seeds import derive_seed
from retrain.training.setup import Parent, Run

SIZES, CLASSES, OLD_CLASSES = (160, 64), 5, 3
ORIGIN = Origin(seed=0, drops=1, classes=OLD_CLASSES)
HEAD = "5.weight"


def initial(drops: int, classes: int, seed: int = 0) -> dict[str, Tensor]:
    """Return the initial weights of a scratch run."""
    return dict(
        factory.build_network(
            TASK.model, classes, TASK.data.image_size, derive_seed(seed, "weights", drops)
        ).state_dict()
    )


def parent() -> Parent:
    """Return a parent that was trained on the first drop. By its counters, some samples are easy and some are hard."""
    weights = {name: torch.full_like(tensor, 2) for name, tensor in initial(1, OLD_CLASSES).items()}
    known = torch.arange(sum(SIZES)) < SIZES[0]
    return Parent(weights, Counters(10.0 * known, torch.arange(sum(SIZES)) % 10 * known, 1.0 * known))


def continuous(anchor: str = "origin") -> Run:
    return with_recipe(objective=L2Init(strength=0.5, anchor=anchor))


def with_recipe(known: int = 1, **aspects: Objective | Warm) -> Run:
    """Return a continuous run of the paper's recipe, with some of its aspects replaced."""
    recipe = Recipe(preset="paper", schedule=TASK.recipe.schedule, **aspects)
    task = TASK.model_copy(update={"recipe": recipe})
    plan = plan_of(task, "continuous", SIZES, CLASSES, known=known, parent="scratch-0", origin=ORIGIN)
    return run_of(plan, parent())


def named(run: Run) -> dict[str, nn.Parameter]:
    return dict(run.network.named_parameters())


def anchor_of(run: Run) -> dict[str, Tensor]:
    """Return theta_0, computed from the gradient 2 * strength * (theta - theta_0) with strength 1/2."""
    run.optimizer.zero_grad()
    run.change_gradients(0)
    return {name: (parameter - parameter.grad).detach() for name, parameter in named(run).items()}


def test_first_scratch_run_starts_from_the_origin() -> None:
    run = run_of(plan_of(sizes=(160,), classes=OLD_CLASSES))
    assert all(torch.equal(tensor, initial(1, OLD_CLASSES)[name]) for name, tensor in run.network.state_dict().items())


def test_later_scratch_run_starts_from_other_weights() -> None:
    first, later = initial(1, CLASSES), initial(2, CLASSES)
    assert not torch.equal(first["0.weight"], later["0.weight"])


def test_continuous_run_shrinks_perturbs_and_grows_its_head() -> None:
    fresh, run = initial(2, CLASSES), continuous()
    head, kernel = named(run)[HEAD], named(run)["0.weight"]
    torch.testing.assert_close(kernel.detach(), 0.4 * 2 + 0.001 * fresh["0.weight"])
    torch.testing.assert_close(head[:OLD_CLASSES].detach(), 0.4 * 2 + 0.001 * fresh[HEAD][:OLD_CLASSES])
    assert torch.equal(head[OLD_CLASSES:], fresh[HEAD][OLD_CLASSES:])
    assert run.network.get_buffer("1.running_mean").tolist() == [0.0] * 8


def test_naive_run_starts_from_the_parents_unchanged_weights() -> None:
    run = run_of(plan_of(method="naive", sizes=SIZES, classes=CLASSES, known=1, parent="scratch-0"), parent())
    assert torch.equal(named(run)[HEAD][OLD_CLASSES:], initial(2, CLASSES)[HEAD][OLD_CLASSES:])
    assert set(named(run)[HEAD][:OLD_CLASSES].flatten().tolist()) == {2.0}
    assert run.network.get_buffer("1.running_mean").tolist() == [2.0] * 8


def test_anchor_start_is_the_runs_initial_weights() -> None:
    run = continuous("start")
    for name, anchor in anchor_of(run).items():
        torch.testing.assert_close(anchor, named(run)[name].detach())


def test_anchor_fresh_is_the_runs_fresh_network() -> None:
    for name, anchor in anchor_of(continuous("fresh")).items():
        torch.testing.assert_close(anchor, initial(2, CLASSES)[name])


def test_anchor_origin_is_the_first_network_with_new_rows() -> None:
    fresh, origin = initial(2, CLASSES), initial(1, OLD_CLASSES)
    anchor = anchor_of(continuous("origin"))
    torch.testing.assert_close(anchor["0.weight"], origin["0.weight"])
    torch.testing.assert_close(anchor[HEAD], torch.cat([origin[HEAD], fresh[HEAD][OLD_CLASSES:]]))


def test_anchor_stays_while_the_weights_move() -> None:
    run = continuous("start")
    before = anchor_of(run)
    with torch.no_grad():
        for parameter in named(run).values():
            parameter.add_(1)
    for name, anchor in anchor_of(run).items():
        torch.testing.assert_close(anchor, before[name], rtol=0, atol=1e-6)


def test_ewc_pulls_to_the_start_by_the_fisher_of_old_samples() -> None:
    run = with_recipe(objective=Ewc(strength=3.0))
    images, old = Normalize(TASK.data)(run.train.images), SIZES[0]
    fisher = fisher_diagonal(run.network, images[:old], run.train.labels[:old])
    others = fisher_diagonal(run.network, images[old:], run.train.labels[old:])
    assert not torch.allclose(fisher[HEAD], others[HEAD], rtol=0.01)
    run.optimizer.zero_grad()
    run.change_gradients(0)
    assert not any(parameter.grad is not None and parameter.grad.any() for parameter in named(run).values())
    with torch.no_grad():
        for parameter in named(run).values():
            parameter.add_(0.5)
    run.change_gradients(0)
    for name, parameter in named(run).items():
        torch.testing.assert_close(parameter.grad, 3.0 * 0.5 * fisher[name], rtol=1e-4, atol=1e-6)


def test_ewc_without_old_samples_is_refused() -> None:
    with pytest.raises(ModelError, match="ewc needs samples that the parent was trained on"):
        with_recipe(known=0, objective=Ewc())


def test_head_first_trains_only_the_head_for_its_share() -> None:
    run = with_recipe(initialization=Warm(head_first=0.25), objective=NoPenalty())
    until = run.plan.iterations // 4
    assert until == 7
    for iteration, trained in ((0, {HEAD, "5.bias"}), (until - 1, {HEAD, "5.bias"}), (until, set(named(run)))):
        for parameter in named(run).values():
            parameter.grad = torch.ones_like(parameter)
        run.change_gradients(iteration)
        assert {name for name, parameter in named(run).items() if parameter.grad.any()} == trained


def test_frozen_parameters_are_neither_trained_nor_penalized() -> None:
    task = TASK.model_copy(update={"model": TASK.model.model_copy(update={"name": f"{__name__}:frozen"})})
    run = run_of(plan_of(task))
    trained = run.optimizer.parameters
    assert [tuple(parameter.shape) for parameter in trained] == [(5, 192), (5,)]
    run.change_gradients(0)
    assert run.network.get_parameter("1.weight").grad is None


def frozen(classes: int, image_size: int) -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, 192), nn.Linear(192, classes))
    network[1].requires_grad_(False)
    return network


def test_setup_thins_the_easiest_and_hardest_old_samples() -> None:
    run = continuous()
    probability = run.loader.sampler.probability
    assert probability is not None
    ends = [sample for sample in range(SIZES[0]) if sample % 10 in (0, 9)]  # never and always right
    assert (probability < 1).nonzero().flatten().tolist() == ends
    assert set(probability[SIZES[0] :].tolist()) == {1.0}


def test_parent_that_does_not_fit_is_refused() -> None:
    other = Parent({"weight": torch.zeros(3)}, Counters.zeros(sum(SIZES)))
    with pytest.raises(ModelError, match=r"the parent's weights do not fit the network at 0\.weight"):
        run_of(plan_of(method="naive", sizes=SIZES, known=1, parent="scratch-0"), other)


def test_scratch_uses_no_penalty_and_every_sample() -> None:
    plan = plan_of()
    assert (plan.recipe.objective, plan.recipe.sampling) == (NoPenalty(), Uniform())
    assert plan.recipe.initialization != ShrinkPerturb()
    assert run_of(plan).loader.sampler.probability is None


def test_batch_of_one_is_too_few_for_batchnorm() -> None:
    training = TASK.training.model_copy(update={"batch_size": 1})
    model = Model(name="resnet18", options={"width": 4})
    task = TASK.model_copy(update={"training": training, "model": model})
    with pytest.raises(TaskError, match=r"training\.batch_size: one image per process is too few"):
        run_of(plan_of(task, sizes=(160,), classes=OLD_CLASSES))


@pytest.mark.parametrize(("samples", "count_type"), [(8, torch.int32), (160, torch.int16)])
def test_counts_do_not_overflow_on_few_samples(samples: int, count_type: torch.dtype) -> None:
    """Each of 8 samples is seen 40,000 times on average, and an int16 counts up to 32,767."""
    training = TASK.training.model_copy(update={"batch_size": 320})
    plan = plan_of(TASK.model_copy(update={"training": training}), sizes=(samples,))
    run = run_of(plan.model_copy(update={"iterations": 1000}))
    assert run.counters.seen.dtype == run.counters.correct.dtype == count_type
    every = torch.arange(samples).repeat(320 // samples)
    for _ in range(1000):
        run.counters.count(every, torch.ones(320, dtype=torch.bool), torch.ones(320))
    assert run.counters.seen.eq(320_000 // samples).all()
