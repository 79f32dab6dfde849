"""Random transforms of whole batches. Draws depend only on the seed, the iteration and the position in the batch."""

import pytest
import torch
from support.trainings import TASK, RecordingObserver, pixels, plan_of, run_of
from torchvision.transforms import v2

from retrain.config.augmentation import Augmentation, ColorJitter, RandAugment, ResizedCrop, TrivialAugment
from retrain.config.task import Data
from retrain.data.augment import Rows
from retrain.records import Plan
from retrain.training.loop import run_loop
from retrain.training.loss import make_criterion
from retrain.training.seeds import derive_seed
from retrain.training.state import load_state, save_state
from retrain.training.transforms import GROUP, crop_boxes, draw_boxes, make_mix, make_transform

BATCH = 20
ALL = Rows(0, BATCH, BATCH)
KINDS = [
    Augmentation(resized_crop=ResizedCrop()),
    Augmentation(policy=RandAugment()),
    Augmentation(policy=TrivialAugment()),
    Augmentation(color_jitter=ColorJitter(hue=0.1)),
    Augmentation(resized_crop=ResizedCrop(), policy=TrivialAugment(), color_jitter=ColorJitter()),
]


def images() -> torch.Tensor:
    return pixels(torch.arange(BATCH) % 5, seed=4)


def plan_with(augmentation: Augmentation, iterations: int = 6) -> Plan:
    data = Data(image_size=8, crop_padding=1, augmentation=augmentation)
    training = TASK.training.model_copy(update={"save_seconds": 0})
    plan = plan_of(TASK.model_copy(update={"data": data, "training": training}), sizes=(80,))
    return plan.model_copy(update={"iterations": iterations, "evaluate_every": 3})


@pytest.mark.parametrize("setting", KINDS)
def test_draws_depend_on_seed_and_iteration_alone(setting: Augmentation) -> None:
    transform = make_transform(setting, seed=1)
    first = transform(images(), 5, ALL)
    torch.rand(3)  # other draws in between
    assert torch.equal(make_transform(setting, seed=1)(images(), 5, ALL), first)
    assert not torch.equal(transform(images(), 6, ALL), first)
    assert not torch.equal(make_transform(setting, seed=2)(images(), 5, ALL), first)
    assert first.dtype == torch.uint8


@pytest.mark.parametrize("setting", KINDS)
def test_ranks_draw_the_same_transforms_as_one_process(setting: Augmentation) -> None:
    transform = make_transform(setting, seed=1)
    parts = [
        transform(images()[start:stop], 5, Rows(start, stop, BATCH)) for start, stop in ((0, 7), (7, 13), (13, 20))
    ]
    assert torch.equal(torch.cat(parts), transform(images(), 5, ALL))


def test_policy_matches_torchvision_in_each_image_group() -> None:
    transform = make_transform(Augmentation(policy=RandAugment(operations=3, magnitude=12)), seed=1)
    expected = []
    for group, part in enumerate(images().split(GROUP)):
        torch.manual_seed(derive_seed(1, "transforms 5", group))
        expected.append(v2.RandAugment(3, 12)(part))
    assert torch.equal(transform(images(), 5, ALL), torch.cat(expected))


def test_resized_crops_match_torchvision() -> None:
    """Crops of smooth images depend on their position, and hardly on the interpolation kernel."""
    ramp = torch.linspace(0, 255, 16).repeat(3, 16, 1)
    smooth = torch.stack([ramp, ramp.transpose(1, 2)]).to(torch.uint8)
    boxes = torch.tensor([[2.0, 3.0, 12.0, 11.0], [0.0, 0.0, 16.0, 16.0]])
    found = crop_boxes(smooth, boxes)
    expected = v2.functional.resized_crop(smooth[:1], top=3, left=2, height=8, width=10, size=[16, 16])
    assert int((found[:1].int() - expected.int()).abs().max()) <= 3
    assert int((found[1].int() - smooth[1].int()).abs().max()) <= 5  # at the border, interpolation points are closer


def test_crop_boxes_respect_scale_ratio_and_image_bounds() -> None:
    setting = ResizedCrop(scale=(0.25, 0.5), ratio=(0.5, 2.0))
    left, top, right, bottom = draw_boxes(setting, torch.Size((32, 48)), Rows(0, 4000, 4000), 0, 0).unbind(1)
    assert float(left.min()) >= 0
    assert float(top.min()) >= 0
    assert float(right.max()) <= 48.001
    assert float(bottom.max()) <= 32.001
    ratio, area = (right - left) / (bottom - top), (right - left) * (bottom - top) / (32 * 48)
    assert 0.49 < float(ratio.min()) < 0.52
    assert 1.8 < float(ratio.max()) < 2.01
    assert float(area.max()) <= 0.5001
    assert float(area.mean()) == pytest.approx(0.375, abs=0.01)


@pytest.mark.parametrize("setting", [Augmentation(mixup=1.0), Augmentation(cutmix=1.0)])
def test_mixed_targets_are_the_shares_of_both_labels(setting: Augmentation) -> None:
    labels = torch.arange(BATCH) % 5
    flat = labels.float().view(-1, 1, 1, 1).expand(-1, 3, 8, 8).contiguous()  # each pixel of an image equals its label
    mixed, targets = make_mix(setting, 5, seed=0)(flat, labels, 3)
    assert targets.shape == (BATCH, 5)
    torch.testing.assert_close(targets.sum(1), torch.ones(BATCH))
    torch.testing.assert_close(mixed.mean((1, 2, 3)), targets @ torch.arange(5.0))
    assert not torch.equal(make_mix(setting, 5, seed=0)(flat, labels, 4)[1], targets)


@pytest.mark.parametrize(
    ("setting", "kind"), [(Augmentation(mixup=0.2), v2.MixUp), (Augmentation(cutmix=1.0), v2.CutMix)]
)
def test_single_mixing_matches_torchvision_random_choice(
    setting: Augmentation, kind: type[v2.MixUp | v2.CutMix]
) -> None:
    """Runs of earlier versions drew by RandomChoice. Such a run, when resumed, must draw the same numbers."""
    batch, labels, before = images().float(), torch.arange(len(images())) % 5, torch.get_rng_state()
    mixed = make_mix(setting, 5, seed=3)(batch, labels, 7)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(3, "mix", 7))
        expected = v2.RandomChoice([kind(alpha=setting.mixup or setting.cutmix, num_classes=5)])(batch, labels)
    assert all(map(torch.equal, mixed, expected))


def test_learning_speed_counts_unmixed_labels() -> None:
    labels, logits = torch.tensor([0, 1]), torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    targets = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    losses = make_criterion(TASK.training, ("a", "b"), labels, mixed=True)(logits, labels, targets)
    plain = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(losses.each, plain)
    assert float(losses.mean) == pytest.approx(float(plain.mean()) + 1)  # log p of the other class is 2 lower


def test_transforms_are_off_by_default() -> None:
    raw, labels = images(), torch.arange(BATCH)
    assert make_transform(Augmentation(), 0)(raw, 0, ALL) is raw
    assert make_mix(Augmentation(), 5, 0)(raw, labels, 0) == (raw, labels)


def test_resumed_run_with_transforms_matches_full_run() -> None:
    setting = Augmentation(
        resized_crop=ResizedCrop(), policy=RandAugment(), color_jitter=ColorJitter(), mixup=0.4, cutmix=1
    )
    whole, states = run_of(plan_with(setting)), []
    run_loop(whole, RecordingObserver(), lambda run: states.append(save_state(run)), lambda: False)
    resumed = run_of(plan_with(setting))
    load_state(resumed, states[2])
    run_loop(resumed, RecordingObserver(), lambda run: None, lambda: False)
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name
    assert torch.equal(whole.counters.correct, resumed.counters.correct)
    assert plan_with(setting).run_id != plan_with(Augmentation()).run_id
