"""Studies in which later data depends on earlier runs, or replaces it: transfer, and active learning by margin."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.studying import CPU, small_study, workplace

from retrain.data.staging import Staging
from retrain.experiments.active_learning import sizes
from retrain.experiments.drops import DataRoot
from retrain.experiments.grid import Cell, cells, drop_ids
from retrain.experiments.kept_runs import MAP
from retrain.experiments.plots import write_plots
from retrain.experiments.runner import run
from retrain.experiments.runs import Runs
from retrain.experiments.statistics import groups
from retrain.pipeline.context import make_context
from retrain.pipeline.evaluate import load_network
from retrain.recipe.analysis import margins
from retrain.records import Loading


@pytest.fixture(autouse=True, scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Task, digits and cache, once for this module."""
    with workplace(tmp_path_factory.mktemp("splits")) as root:
        yield root


def test_transfer_trains_on_the_second_drop_alone_from_the_weights_of_the_first(place: Path, tmp_path: Path) -> None:
    splits = {f"{kept} %": {"by": "transfer", "sizes": "5+5", "kept": kept} for kept in (50, 100)}
    runs = Runs(small_study(splits=splits), str(tmp_path))
    assert run(runs, DataRoot(place), CPU) == 2 * 4
    assert run(runs, DataRoot(place), CPU) == 0
    by_cell = {(one.cell.split, one.cell.method): one.record for one in runs.ran()}
    assert {record.drops for record in by_cell.values()} == {("drop-2",)}
    naive = by_cell["100 %", "naive"]
    plan = runs.store(naive.task).run(naive.run_id).plan()
    assert (plan.known, len(plan.dataset.classes)) == (0, 5)
    assert naive.parent == runs.plan(Cell("task", "100 %", "(first drop)", 1, 0)).run_id
    halves = [runs.drops(Cell("task", split, "naive", 2, 0))[0] for split in ("50 %", "100 %")]
    assert [sum(drop.samples(split) for split in ("train", "val", "test")) for drop in halves] == [100, 200]
    assert set(halves[0].classes).isdisjoint(runs.drops(Cell("task", "50 %", "(first drop)", 1, 0))[0].classes)


def test_what_lands_next_is_what_the_methods_own_model_is_least_sure_of(place: Path, tmp_path: Path) -> None:
    splits = {"by margin": {"by": "margin", "sizes": "40+30+30"}}
    methods = {"scratch": {"start": "scratch"}, "naive": {}}
    runs = Runs(small_study(splits=splits, methods=methods), str(tmp_path))
    assert run(runs, DataRoot(place), CPU) == 1 + 2 + 2
    assert run(runs, DataRoot(place), CPU) == 0
    one = {cell.method: cell for cell in cells(runs.study, 3)}
    assert set(drop_ids(runs.study, one["scratch"])) & set(drop_ids(runs.study, one["naive"])) == {"drop-1"}
    store = runs.store(runs.task(one["naive"]).name)
    images = {drop.id: sum(map(drop.samples, ("train", "val", "test"))) for drop in store.drops.all()}
    assert sorted(images.values()) == [120, 120, 120, 120, 160]
    assert [one.record.drops for one in runs.ran() if one.cell == Cell("task", "by margin", "naive", 3, 0)] == [
        tuple(drop_ids(runs.study, one["naive"]))
    ]


def test_the_drop_that_lands_holds_the_smallest_margins_of_the_pool(place: Path, tmp_path: Path) -> None:
    splits = {"m": {"by": "margin", "sizes": "40+30+30"}}
    study = small_study(
        splits=splits, methods={"naive": {}}, against=["naive"], data=[{"name": "digits", "per_class": 20}]
    )
    runs = Runs(study, str(tmp_path))
    run(runs, DataRoot(place), CPU)
    second, third = (Cell("task", "m", "naive", drops, 0) for drops in (2, 3))
    task = runs.task(second)
    context = make_context(runs.store(task.name), task, "cpu")
    first = runs.plan(Cell("task", "m", "(first drop)", 1, 0))
    network = load_network(context.files(first.run_id), first, context.factories, context.device).eval()

    def margins_of(cell: Cell) -> torch.Tensor:
        arrays = context.samples(runs.plan(cell).dataset, ("train", "val", "test"), task.data, Loading())
        position = len(runs.plan(cell).dataset.drops) - 1
        images = torch.cat([part.images[part.drop == position] for part in arrays.values()])
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (task.data.mean, task.data.std))
        with torch.no_grad():
            return margins(network((images / 255 - mean) / std))

    assert len(margins_of(second)) == len(margins_of(third)) == 60
    assert margins_of(second).max() <= margins_of(third).min() + 1e-6


def test_sizes_by_share_add_up() -> None:
    assert sizes(101, Staging.parse("share", "33+33+34")) == [33, 33, 35]


def test_a_method_may_have_fewer_seeds_than_the_study() -> None:
    methods = {"scratch": {"start": "scratch"}, "naive": {"seeds": 1}}
    found = [(cell.method, cell.seed) for cell in cells(small_study(seeds=[3, 4], methods=methods), 2)]
    assert found == [("scratch", 3), ("scratch", 4), ("naive", 3)]


def test_learning_speeds_before_and_after_are_measured_and_drawn(place: Path, tmp_path: Path) -> None:
    methods = {"scratch": {"start": "scratch"}, "naive": {}}
    study = small_study(methods=methods, measures=["learning_speed"], plots=["learning_speed"])
    runs = Runs(study, str(tmp_path / "store"))
    run(runs, DataRoot(place), CPU)
    measured = {one.cell.method: one.measures for one in runs.ran()}
    assert measured["scratch"] == {}
    shares = torch.tensor(measured["naive"][MAP])
    assert shares.shape == (10, 10)
    assert float(shares.sum()) == pytest.approx(1)
    # In three epochs a sample was right in none, one, two or all of them; a few were seen a time more or less.
    assert shares.sum(1)[[0, 3, 6, 9]].sum() > 0.9
    assert -1 <= measured["naive"]["rank correlation of learning speeds"] <= 1
    write_plots(study, groups(study, runs.ran()), tmp_path / "pictures")
    assert "learning speed in this run" in next((tmp_path / "pictures").glob("*.svg")).read_text()
