import pytest
import torch

from retrain.config.recipe import Cosine, MultiStep
from retrain.recipe.schedule import longer_scale, rate_factor, resolve_scale

CASES = (1, 2, 7, 100, 391)


def rates(schedule: type[torch.optim.lr_scheduler.LRScheduler], iterations: int, **options: object) -> list[float]:
    """The rates of torch's own scheduler at iterations 0 .. `iterations`, from a peak of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule(optimizer, **options)
    found = []
    for _ in range(iterations + 1):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("iterations", CASES)
def test_cosine_equals_torch(iterations: int) -> None:
    expected = rates(torch.optim.lr_scheduler.CosineAnnealingLR, iterations, T_max=iterations)
    found = [rate_factor(Cosine(), i, iterations) for i in range(iterations + 1)]
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("milestones", [(), (0.5, 0.75), (0.07, 0.29, 0.58)])
def test_multistep_equals_torch_at_the_very_iteration(milestones: tuple[float, ...]) -> None:
    whole = [round(100 * milestone) for milestone in milestones]
    expected = rates(torch.optim.lr_scheduler.MultiStepLR, 100, milestones=whole, gamma=0.2)
    setting = MultiStep(milestones=milestones, factor=0.2)
    assert [rate_factor(setting, i, 100) for i in range(101)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("setting", [Cosine(), MultiStep()])
@pytest.mark.parametrize("iterations", CASES)
def test_rates_start_at_the_peak_never_rise_and_stay_within_it(setting: Cosine | MultiStep, iterations: int) -> None:
    found = [rate_factor(setting, i, iterations) for i in range(iterations + 1)]
    assert found[0] == 1.0
    assert found == sorted(found, reverse=True)
    assert found[-1] >= 0


@pytest.mark.parametrize("setting", [Cosine(), MultiStep()])
@pytest.mark.parametrize(("new_share", "scale"), [(0.0, 0.25), (0.3, 0.25), (0.499, 0.25), (0.5, 0.5), (0.7, 0.5)])
def test_auto_is_a_quarter_below_half_new_data_and_a_half_from_there(
    setting: Cosine | MultiStep, new_share: float, scale: float
) -> None:
    assert resolve_scale(setting, new_share) == scale


def test_a_stated_scale_stands_whatever_the_data() -> None:
    assert resolve_scale(Cosine(scale=0.3), 0.9) == 0.3


def test_escalation_climbs_to_scratchs_length_and_ends_there() -> None:
    assert [longer_scale(scale) for scale in (0.1, 0.25, 0.3, 0.5, 0.75, 1.0, 2.0)] == [
        0.25,
        0.5,
        0.5,
        1,
        1,
        None,
        None,
    ]
