"""Learning rates equal the rates of torch's schedulers."""

import pytest
import torch

from retrain.config.recipe import AutoSchedule, Constant, Cosine, InverseTime, MultiStep, OpenEnded, Recipe
from retrain.recipe.schedule import learning_rate, longer_scale, resolve_kind, resolve_scale

CASES = (1, 2, 7, 100, 391)


def rates(schedule: type[torch.optim.lr_scheduler.LRScheduler], iterations: int, **options: object) -> list[float]:
    """Return the rates of torch's scheduler at iterations 0 to `iterations`. The peak rate is 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule(optimizer, **options)
    found = []
    for _ in range(iterations + 1):
        found.append(float(scheduler.get_last_lr()[0]))
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("iterations", CASES)
def test_cosine_equals_torch(iterations: int) -> None:
    expected = rates(torch.optim.lr_scheduler.CosineAnnealingLR, iterations, T_max=iterations)
    found = [learning_rate(Cosine(), 1.0, i, iterations) for i in range(iterations + 1)]
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("milestones", [(), (0.5, 0.75), (0.07, 0.29, 0.58)])
def test_multistep_equals_torch_at_each_iteration(milestones: tuple[float, ...]) -> None:
    in_iterations = [round(100 * milestone) for milestone in milestones]
    expected = rates(torch.optim.lr_scheduler.MultiStepLR, 100, milestones=in_iterations, gamma=0.2)
    setting = MultiStep(milestones=milestones, factor=0.2)
    assert [learning_rate(setting, 1.0, i, 100) for i in range(101)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("setting", [Cosine(), MultiStep()])
@pytest.mark.parametrize("iterations", CASES)
def test_rates_start_at_the_peak_and_never_rise(setting: Cosine | MultiStep, iterations: int) -> None:
    found = [learning_rate(setting, 1.0, i, iterations) for i in range(iterations + 1)]
    assert found[0] == 1.0
    assert found == sorted(found, reverse=True)
    assert found[-1] >= 0


@pytest.mark.parametrize("setting", [Cosine(), MultiStep()])
@pytest.mark.parametrize(("new_share", "scale"), [(0.0, 0.25), (0.3, 0.25), (0.499, 0.25), (0.5, 0.5), (0.7, 0.5)])
def test_auto_scale_depends_on_the_share_of_new_data(
    setting: Cosine | MultiStep, new_share: float, scale: float
) -> None:
    assert resolve_scale(setting, new_share) == scale


def test_stated_scale_does_not_depend_on_the_data() -> None:
    assert resolve_scale(Cosine(scale=0.3), 0.9) == 0.3


def test_escalation_uses_the_papers_scales_and_ends() -> None:
    paper = Recipe(preset="paper").schedule
    scales = [longer_scale(paper, scale) for scale in (0.1, 0.25, 0.3, 0.5, 0.75, 1.0, 2.0)]
    assert scales == [0.25, 0.5, 0.5, 1, 1, None, None]


@pytest.mark.parametrize("setting", [AutoSchedule(), Constant(), InverseTime(), Cosine(), MultiStep()])
def test_schedules_escalate_only_if_configured(setting: OpenEnded | Cosine | MultiStep) -> None:
    assert longer_scale(setting, 0.25) is None


@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_constant_schedule_warms_up_in_equal_steps(warmup: int) -> None:
    found = [learning_rate(Constant(warmup=warmup), 0.5, i, 12) for i in range(13)]
    expected = [0.5 * (i + 1) / warmup for i in range(warmup)] + [0.5] * (13 - warmup)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("half", [0.1, 0.5])
def test_inverse_time_equals_its_formula_under_torch(half: float) -> None:
    formula = {"lr_lambda": lambda i: 1 / (1 + i / (half * 200))}
    expected = rates(torch.optim.lr_scheduler.LambdaLR, 200, **formula)
    found = [learning_rate(InverseTime(half=half, warmup=0), 1.0, i, 200) for i in range(201)]
    assert found == pytest.approx(expected, rel=1e-12)
    assert found[round(half * 200)] == pytest.approx(0.5)


def test_inverse_time_does_not_depend_on_the_budget() -> None:
    full = [learning_rate(InverseTime(), 1.0, i, 200) for i in range(50)]
    quarter = [learning_rate(InverseTime(scale=0.25), 1.0, i, 50) for i in range(50)]
    assert quarter == pytest.approx(full, rel=1e-12)


def test_auto_schedule_is_constant_or_falls_within_its_budget() -> None:
    auto = AutoSchedule(scale=0.5, warmup=3)
    assert resolve_kind(auto, falls=False) == Constant(scale=0.5, warmup=3)
    assert resolve_kind(auto, falls=True) == InverseTime(scale=0.5, warmup=3)
    assert resolve_kind(Constant(), falls=True) == Constant(), "a schedule that is not auto is unchanged"
    with pytest.raises(ValueError, match="still auto"):
        learning_rate(auto, 1.0, 0, 10)


def test_cosine_with_a_final_rate_equals_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100, eta_min=1e-6)
    for i in range(101):
        found = learning_rate(Cosine(final_rate=1e-6), 1e-3, i, 100)
        assert found == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_peak_scales_every_schedule() -> None:
    for setting in (Constant(), InverseTime(), Cosine(), MultiStep()):
        assert learning_rate(setting, 0.2, 30, 40) == pytest.approx(0.2 * learning_rate(setting, 1.0, 30, 40))
