"""Tests that data, networks, plots and measures of the studies at the papers' scale match the papers' texts.

The expected values come from the papers (V: Verwimp et al., 2025; A: Ash & Adams, first version). Nothing is trained.
"""

from pathlib import Path

import pytest
from support.planned_studies import planned

from retrain.config.recipe import MultiStep
from retrain.experiments.files import load_study

ROOT = Path(__file__).parents[2]
PAPER = sorted(path.stem.removesuffix("-paper") for path in (ROOT / "studies").glob("*-paper.yaml"))
CIFAR10, CIFAR100, SVHN = (0.4914, 0.4822, 0.4465), (0.5071, 0.4866, 0.4409), (0.4377, 0.4438, 0.4728)
IMAGENET = (0.485, 0.456, 0.406)

VERWIMP = ("cifar100",), CIFAR100, 32
"""V, section 3: the case study is CIFAR-100 with 70 and 30 classes."""
ASH = ("cifar10",), CIFAR10, 32
"""A, section 3: CIFAR-10 unless otherwise stated."""
OTHER_DATA = {
    "verwimp-table2a-cifar10": (("cifar10",), CIFAR10, 32),
    "verwimp-table2a-imagenet-100": (("imagenet-100",), IMAGENET, 224),
    "verwimp-table2a-imagenet-200": (("imagenet-200",), IMAGENET, 224),
    "verwimp-table2a-adaptiope-product-images": (("adaptiope-product-images",), IMAGENET, 224),
    "verwimp-domains": (("adaptiope-product-images", "adaptiope-real-life"), IMAGENET, 224),
    "ash-table1-cifar100": (("cifar100",), CIFAR100, 32),
    "ash-table4-cifar100": (("cifar100",), CIFAR100, 32),
    "ash-table1-svhn": (("svhn",), SVHN, 32),
    "ash-table4-svhn": (("svhn",), SVHN, 32),
    "ash-figure3": (("cifar10", "svhn"), SVHN, 32),
}
"""Data sets, the mean for the normalization of images, and the image size in pixels."""

SHOWN = {  # plots and measures of figures that show more than accuracy curves
    "verwimp-table1": ({"accuracy", "loss"}, set()),  # V, Figures 1, 2 and 15
    "verwimp-ten-tasks": ({"chain"}, set()),  # V, Figure 6
    "verwimp-learning-speed": ({"learning_map", "gradient_norms"}, {"learning_map", "gradient_curves"}),  # V, 11 and 14
    "ash-figure1": ({"accuracy", "train_accuracy"}, set()),
    "ash-figure2": ({"final", "cost"}, set()),
    "ash-figure3": ({"final"}, set()),
    "ash-figure4": ({"time"}, set()),
    "ash-figure5": ({"correlation"}, {"weight_correlation"}),
    "ash-figure6": ({"gradient_norms"}, {"gradient_curves"}),
    "ash-figure7": ({"switch"}, set()),
    "ash-figure8": ({"final", "cost"}, set()),
    "ash-figure9": ({"final", "cost"}, set()),
}
CURVES = ("objective", "sampling", "schedule", "domains", "alpha", "beta", "lambda", "easy-hard", "multi-step")
ROWS = {  # rows that the papers' tables print
    "verwimp-table1": 20,
    "verwimp-table2b": 14,
    **dict.fromkeys((name for name in PAPER if "table2a" in name), 4),
    **dict.fromkeys(("ash-table1", "ash-table1-svhn", "ash-table1-cifar100"), 12),
    "ash-table2": 24,
    "ash-table3": 6,
    **dict.fromkeys(("ash-table4", "ash-table4-svhn", "ash-table4-cifar100"), 4),
    "ash-table5": 6,  # the four rows of Table 5, and two of Table 1 without the penalty
}


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAIN_TASKS", str(ROOT / "tasks"))
    monkeypatch.setenv("RETRAIN_STUDIES", str(ROOT / "studies"))


@pytest.mark.parametrize("name", PAPER)
def test_study_has_the_papers_complete_data_and_network(name: str) -> None:
    study = load_study(f"{name}-paper")
    names, mean, pixels = OTHER_DATA.get(name, VERWIMP if name.startswith("verwimp") else ASH)
    assert tuple(data.name for data in study.data) == names
    assert not any(data.classes or data.per_class or data.superclasses or data.twin for data in study.data)
    several = {"ash-table1", "ash-table1-svhn", "ash-table1-cifar100", "ash-figure5"}  # A: other networks, too
    for plan in planned(study.name, most_drops=3, seeds=1).values():
        assert (plan.task.data.mean, plan.task.data.image_size) == (mean, pixels)
        assert plan.task.model.name == "resnet18" or name in several
        assert plan.task.model.stem == ("standard" if pixels == 224 else "small")


@pytest.mark.parametrize("name", [*SHOWN, *(f"verwimp-{name}" for name in CURVES)])
def test_study_draws_the_curves_of_the_papers_figure(name: str) -> None:
    study = load_study(f"{name}-paper")
    plots, measures = SHOWN.get(name, ({"accuracy"}, set()))
    assert plots <= set(study.plots)
    assert measures == set(study.measures)


@pytest.mark.parametrize("name", ROWS)
def test_study_lists_every_row_of_the_papers_table(name: str) -> None:
    study = load_study(f"{name}-paper")
    assert len(study.paper) == ROWS[name]
    assert [row.row for row in study.paper if not row.method] == []


@pytest.mark.parametrize("name", PAPER)
def test_speed_ups_and_spreads_are_measured_as_in_the_paper(name: str) -> None:
    study = load_study(f"{name}-paper")
    if name.startswith("ash"):  # A: standard deviations; times to 99 percent training accuracy
        assert (study.spread, study.fitted_accuracy) == ("deviation", 0.99)
        assert all(study.methods[against].start == "scratch" for against in study.against)
    else:  # V: standard errors; Table 2b against scratch with L2-init, all others against plain scratch
        assert study.spread == "error"
        assert study.against[0] == ("scratch reg" if name == "verwimp-table2b" else "scratch")


def test_multi_step_rates_fall_at_half_and_three_quarters() -> None:
    for plan in planned("verwimp-multi-step-paper", seeds=1).values():
        schedule = plan.recipe.schedule
        assert isinstance(schedule, MultiStep)
        assert (schedule.milestones, schedule.factor) == ((0.5, 0.75), 0.1)
