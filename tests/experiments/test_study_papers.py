"""Tests that run the studies at the papers' scale with tiny images, in the real layout and number of classes."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from support.pictures import folder
from support.studying import CPU, workplace

from retrain.config.recipe import Constant
from retrain.experiments.drops import DataRoot
from retrain.experiments.files import load_study
from retrain.experiments.grid import FIRST, cells, task_of
from retrain.experiments.runner import run
from retrain.experiments.runs import Runs
from retrain.experiments.settings import Study
from retrain.pipeline.planning import resolve_averaging

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path.stem for path in (ROOT / "studies").glob("*.yaml"))
PAPER = sorted(path.stem for path in (ROOT / "studies").glob("*-paper.yaml"))
CLASSES = {
    "cifar10": 10,
    "svhn": 10,
    "cifar100": 100,
    "imagenet-100": 100,
    "imagenet-200": 200,
    "adaptiope-product-images": 123,
    "adaptiope-real-life": 123,
}
TINY = {
    "data.image_size": 8,
    "training.epochs": 0.1,
    "training.batch_size": 32,
    "training.evaluate_every": 1,
    "training.iterations": None,
}
TRAINED = [  # together, they use each data set and each way to divide data into drops
    *(name for name in PAPER if "table2a" in name),
    *(
        "verwimp-domains-paper",
        "verwimp-table1-paper",
        "ash-figure3-paper",
        "ash-figure8-paper",
        "ash-figure9-paper",
        "ash-table1-svhn-paper",
    ),
]


@pytest.fixture(autouse=True, scope="module")
def study_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder with small versions of all data sets. Data sets have a test split if the real ones do."""
    with workplace(tmp_path_factory.mktemp("papers")) as root, pytest.MonkeyPatch.context() as environment:
        environment.setenv("RETRAIN_TASKS", str(ROOT / "tasks"))
        environment.setenv("RETRAIN_STUDIES", str(ROOT / "studies"))
        written = 0  # makes the pixels of every image different
        for name, classes in CLASSES.items():
            each = 30 if classes == 10 else 5
            kinds = {"train": each * 4 // 5, "test": each // 5} if "adaptiope" not in name else {"": each}
            for split, count in kinds.items():
                names = [f"{label:03d}/{number}.png" for label in range(classes) for number in range(count)]
                folder(root / name / split, *names, first=written)
                written += len(names)
        yield root


def smallest(study: Study) -> Study:
    """Return the study with one seed, images of 8x8 pixels, and trainings of a few iterations."""
    settings = study.set | TINY
    steps = {
        name: split.model_copy(update={"step": 20, "steps": 3}) if split.step else split
        for name, split in study.splits.items()
    }
    return study.model_copy(update={"set": settings, "splits": steps, "seeds": study.seeds[:1]})


@pytest.mark.parametrize("name", TRAINED)
def test_study_at_the_papers_scale_runs_with_tiny_images(name: str, study_root: Path) -> None:
    whole = smallest(load_study(name))
    methods = {method: whole.methods[method] for method in (whole.against[0], list(whole.methods)[-1])}
    varied = {variant: whole.variants[variant] for variant in list(whole.variants)[:1]}
    tiny = whole.set | {"model.options": {"width": 4}}
    first, *_, last = [*whole.splits, *whole.splits]
    ends = {split: whole.splits[split] for split in (first, last)}
    reduced = {
        "methods": methods,
        "variants": varied,
        "splits": ends,
        "against": whole.against[:1],
        "draw": (),
        "paper": (),
        "set": tiny,
    }
    study = Study.model_validate(whole.model_dump() | reduced)
    runs = Runs(study, str(study_root / "store"))
    assert run(runs, DataRoot(study_root), CPU) > 0
    assert {one.cell.method for one in runs.ended_runs()} == {FIRST, *methods}
    assert {one.record.outcome for one in runs.ended_runs()} == {"completed"}


@pytest.mark.parametrize("name", STUDIES)
def test_study_cells_use_paper_recipe(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stored runs of studies used the paper's recipe. A new default of `retrain` must not change a study."""
    monkeypatch.setenv("RETRAIN_TASKS", str(ROOT / "tasks"))
    monkeypatch.setenv("RETRAIN_STUDIES", str(ROOT / "studies"))
    study = load_study(name)
    longest = max(study.count_drops(split) for split in study.splits)
    first_two = range(1, min(longest, 2) + 1)  # cells of later drops have the same settings
    for cell in chain.from_iterable(cells(study, drops) for drops in first_two):
        if cell.seed == study.seeds[0] and cell.method != "default":
            task = task_of(study, cell, None)
            assert task.recipe.preset == "paper"
            assert not isinstance(task.recipe.schedule, Constant)
            assert task.training.evaluate_every != "auto"
            assert resolve_averaging(task).kind == "none"
