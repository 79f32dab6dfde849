"""Tests of splits: by margin, transfer, component and steps, new splits for each seed, and measures of their runs."""

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from support.studying import CPU, small_study, workplace

from retrain.data.shards import read_shard
from retrain.data.source import read_source
from retrain.data.staging import Staging
from retrain.errors import StudyError
from retrain.experiments.active_learning import sizes
from retrain.experiments.component import scores_of
from retrain.experiments.drops import DataRoot, commit_drops, prepared_data
from retrain.experiments.grid import FIRST, Cell, cells, drop_ids
from retrain.experiments.kept_runs import GRADIENTS, LEARNING_MAP, MAP
from retrain.experiments.plots import write_plots
from retrain.experiments.runner import run
from retrain.experiments.runs import Runs
from retrain.experiments.settings import Study
from retrain.experiments.statistics import groups
from retrain.pipeline.context import make_context
from retrain.pipeline.evaluate import load_network
from retrain.recipe.analysis import margins
from retrain.records import Loading


@pytest.fixture(autouse=True, scope="module")
def study_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder with a task, digits and a cache for the tests of this module."""
    with workplace(tmp_path_factory.mktemp("splits")) as root:
        yield root


def test_transfer_trains_on_the_second_drop_only(study_root: Path, tmp_path: Path) -> None:
    splits = {f"{kept} %": {"by": "transfer", "sizes": "5+5", "kept": kept} for kept in (50, 100)}
    runs = Runs(small_study(splits=splits), str(tmp_path))
    assert run(runs, DataRoot(study_root), CPU) == 2 * 4
    assert run(runs, DataRoot(study_root), CPU) == 0
    by_cell = {(one.cell.split, one.cell.method): one.record for one in runs.ended_runs() if one.cell.drops == 2}
    assert {record.drops for record in by_cell.values()} == {("drop-2",)}
    naive = by_cell["100 %", "naive"]
    plan = runs.store(naive.task).run(naive.run_id).plan()
    assert (plan.known, len(plan.dataset.classes)) == (0, 5)
    assert naive.parent == runs.plan(Cell("task", "100 %", "(first drop)", 1, 0)).run_id
    halves = [runs.drops(Cell("task", split, "naive", 2, 0))[0] for split in ("50 %", "100 %")]
    assert [sum(drop.samples(split) for split in ("train", "val", "test")) for drop in halves] == [100, 200]
    assert set(halves[0].classes).isdisjoint(runs.drops(Cell("task", "50 %", "(first drop)", 1, 0))[0].classes)


def test_split_by_margin_has_separate_drops_for_each_method(study_root: Path, tmp_path: Path) -> None:
    splits = {"by margin": {"by": "margin", "sizes": "40+30+30"}}
    methods = {"scratch": {"start": "scratch"}, "naive": {}}
    runs = Runs(small_study(splits=splits, methods=methods), str(tmp_path))
    assert run(runs, DataRoot(study_root), CPU) == 1 + 2 + 2
    assert run(runs, DataRoot(study_root), CPU) == 0
    one = {cell.method: cell for cell in cells(runs.study, 3)}
    assert set(drop_ids(runs.study, one["scratch"])) & set(drop_ids(runs.study, one["naive"])) == {"drop-1"}
    store = runs.store(runs.task(one["naive"]).name)
    images = {drop.id: sum(map(drop.samples, ("train", "val", "test"))) for drop in store.drops.all()}
    assert sorted(images.values()) == [120, 120, 120, 120, 160]
    assert [one.record.drops for one in runs.ended_runs() if one.cell == Cell("task", "by margin", "naive", 3, 0)] == [
        tuple(drop_ids(runs.study, one["naive"]))
    ]


def test_next_drop_has_the_smallest_margins_of_the_pool(study_root: Path, tmp_path: Path) -> None:
    splits = {"m": {"by": "margin", "sizes": "40+30+30"}}
    study = small_study(
        splits=splits, methods={"naive": {}}, against=["naive"], data=[{"name": "digits", "per_class": 20}]
    )
    runs = Runs(study, str(tmp_path))
    run(runs, DataRoot(study_root), CPU)
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


def test_method_may_have_fewer_seeds_than_the_study() -> None:
    methods = {"scratch": {"start": "scratch"}, "naive": {"seeds": 1}}
    found = [(cell.method, cell.seed) for cell in cells(small_study(seeds=[3, 4], methods=methods), 2)]
    assert found == [("scratch", 3), ("scratch", 4), ("naive", 3)]


def test_learning_speeds_of_two_runs_are_measured_and_drawn(study_root: Path, tmp_path: Path) -> None:
    methods = {"scratch": {"start": "scratch"}, "naive": {}}
    study = small_study(methods=methods, measures=["learning_speed"], plots=["learning_speed"])
    runs = Runs(study, str(tmp_path / "store"))
    run(runs, DataRoot(study_root), CPU)
    measured = {one.cell.method: one.measures for one in runs.ended_runs()}
    assert measured["scratch"] == {}
    shares = torch.tensor(measured["naive"][MAP])
    assert shares.shape == (10, 10)
    assert float(shares.sum()) == pytest.approx(1)
    # In three epochs most samples are classified correctly 0, 1, 2 or 3 times. A few are seen twice or four times.
    assert shares.sum(1)[[0, 3, 6, 9]].sum() > 0.9
    assert -1 <= measured["naive"]["rank correlation of learning speeds"] <= 1
    write_plots(study, groups(study, runs.ended_runs()), tmp_path / "pictures")
    assert "learning speed in this run" in next((tmp_path / "pictures").glob("*.svg")).read_text()


def keys_of(runs: Runs, cell: Cell, split: str) -> list[set[str]]:
    """Return the keys of each drop's samples that lie in one split's shards."""
    store = runs.store(runs.task(cell).name)
    found = []
    for drop in runs.drops(cell):
        keys = set[str]()
        for shard in drop.shards:
            key = store.keys.drop_file(drop.id, shard.name)
            with store.objects.open(key) as stream:
                keys |= {sample.key for sample in read_shard(stream, shard, key) if shard.split == split}
        found.append(keys)
    return found


@pytest.fixture
def thirty(study_root: Path, tmp_path: Path) -> Path:
    """Return a folder of digits with 30 training images and 10 test images per class."""
    for digit in (study_root / "digits").iterdir():
        for number, path in enumerate(sorted(digit.iterdir())[:40]):
            to = tmp_path / "data" / "thirty" / ("train" if number < 30 else "test") / digit.name / path.name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to)
    return tmp_path / "data"


def in_steps_by(by: str, **fields: object) -> Study:
    return small_study(
        data=[{"name": "thirty"}],
        splits={"s": {"by": by, "step": 40, "steps": 4}},
        methods={"scratch": {"start": "scratch"}, "naive": {}},
        **fields,
    )


def test_steps_add_equal_numbers_of_training_images(thirty: Path, tmp_path: Path) -> None:
    runs = Runs(in_steps_by("share"), str(tmp_path / "store"))
    assert run(runs, DataRoot(thirty), CPU) == 1 + 3 * 2
    last = Cell("task", "s", "naive", 4, 0)
    sizes_of = {split: [drop.samples(split) for drop in runs.drops(last)] for split in ("train", "val", "test")}
    assert sizes_of == {"train": [40] * 4, "val": [57, 1, 1, 1], "test": [97, 1, 1, 1]}
    assert len(set().union(*keys_of(runs, last, "train"))) == 160
    firsts = [one for one in runs.ended_runs() if one.cell.drops == 1]
    assert [one.cell.method for one in firsts] == [FIRST]


def test_component_steps_are_in_the_order_of_scores(thirty: Path, tmp_path: Path) -> None:
    study = in_steps_by("component")
    runs = Runs(study, str(tmp_path / "store"))
    task = runs.task(next(cells(study, 1)))
    commit_drops(study, "s", task, runs.objects, DataRoot(thirty))
    with prepared_data(study, DataRoot(thirty), task) as (sources, _):
        samples = read_source(sources[0])
        scores = {sample.key: float(score) for sample, score in zip(samples, scores_of(samples), strict=True)}
    steps = [[scores[key] for key in keys] for keys in keys_of(runs, Cell("task", "s", "naive", 4, 0), "train")]
    assert all(max(one) <= min(following) for one, following in pairwise(steps))


def test_split_by_component_has_low_scores_in_the_first_drop(study_root: Path, tmp_path: Path) -> None:
    study = small_study(splits={"50+50": {"by": "component", "sizes": "50+50"}})
    runs = Runs(study, str(tmp_path / "store"))
    task = runs.task(next(cells(study, 1)))
    drops = commit_drops(study, "50+50", task, runs.objects, DataRoot(study_root))
    assert [sum(drop.samples(split) for split in ("train", "val", "test")) for drop in drops] == [200, 200]
    with prepared_data(study, DataRoot(study_root), task) as (sources, _):
        samples = read_source(sources[0])
        scores = {sample.key: float(score) for sample, score in zip(samples, scores_of(samples), strict=True)}
    first, second = ([scores[key] for key in keys] for keys in keys_of(runs, next(cells(study, 2)), "train"))
    assert max(first) <= min(second)


def test_margin_steps_differ_once_the_methods_models_differ(thirty: Path, tmp_path: Path) -> None:
    runs = Runs(in_steps_by("margin"), str(tmp_path / "store"))
    assert run(runs, DataRoot(thirty), CPU) == 1 + 3 * 2
    scratch, naive = (keys_of(runs, Cell("task", "s", method, 3, 0), "train") for method in ("scratch", "naive"))
    assert scratch[0] == naive[0]
    assert scratch[1] == naive[1]  # the model of the first step chose these samples for both methods
    assert scratch[2] != naive[2]
    assert [len(keys) for keys in naive] == [40, 40, 40]


def test_each_seed_draws_another_split_if_configured(thirty: Path, tmp_path: Path) -> None:
    found = {}
    for redraw in (False, True):
        study = small_study(data=[{"name": "thirty"}], seeds=[0, 1], redraw=redraw)
        runs = Runs(study, str(tmp_path / f"store-{redraw}"))
        for cell in cells(study, 1):
            commit_drops(study, "7+3", runs.task(cell), runs.objects, DataRoot(thirty))
        firsts = [Cell("task", "7+3", FIRST, 1, seed) for seed in (0, 1)]
        classes = [runs.drops(cell)[0].classes for cell in firsts]
        found[redraw] = classes, [runs.drops(cell)[0].held_out for cell in firsts]
    assert found[False][0][0] == found[False][0][1]
    assert found[True][0][0] != found[True][0][1]
    assert found[True][1] == [{}, {}]  # the study chooses the val split, so packing holds nothing out


def test_steps_that_do_not_fit_are_refused(thirty: Path, tmp_path: Path) -> None:
    study = in_steps_by("share")
    splits = {"s": study.splits["s"].model_copy(update={"steps": 9})}
    runs = Runs(study.model_copy(update={"splits": splits}), str(tmp_path / "store"))
    with pytest.raises(StudyError, match="9 steps of 40 need 360 training images"):
        run(runs, DataRoot(thirty), CPU)
    with pytest.raises(ValidationError, match="step and steps must be set together"):
        small_study(splits={"s": {"by": "share", "step": 40}})
    with pytest.raises(ValidationError, match="step: not allowed with by: classes"):
        small_study(splits={"s": {"by": "classes", "step": 40, "steps": 2}})


def test_gradient_curves_begin_and_end_with_the_runs_norms(study_root: Path, tmp_path: Path) -> None:
    methods = {"scratch": {"start": "scratch"}, "naive": {}}
    study = small_study(methods=methods, measures=["gradient_norms", "gradient_curves", "learning_map"])
    runs = Runs(study, str(tmp_path / "store"))
    run(runs, DataRoot(study_root), CPU)
    by_method = {one.cell.method: one for one in runs.ended_runs()}
    naive = by_method["naive"]
    curve = naive.measures[f"{GRADIENTS}, new"]
    assert isinstance(curve, list)
    assert curve[0] == [0, pytest.approx(naive.measures["gradient norm, new, start"], rel=1e-3)]
    assert curve[-1] == [
        naive.curve.points[-1].iteration,
        pytest.approx(naive.measures["gradient norm, new, end"], rel=1e-3),
    ]
    assert set(by_method[FIRST].measures) == {f"{GRADIENTS}, new", LEARNING_MAP}


def test_learning_map_ends_with_the_models_train_accuracy(study_root: Path, tmp_path: Path) -> None:
    """Check that the last epoch of the map is the stored model's accuracy on the training images."""
    methods = {"scratch": {"start": "scratch"}}
    runs = Runs(small_study(methods=methods, measures=["learning_map"]), str(tmp_path / "store"))
    run(runs, DataRoot(study_root), CPU)
    first = next(one for one in runs.ended_runs() if one.cell.method == FIRST)
    rows = first.measures[LEARNING_MAP]
    assert isinstance(rows, list)
    assert len(rows) == 3
    assert first.record.result is not None
    samples = runs.drops(first.cell)[0].samples("train")
    weights = [len(group) / samples for group in torch.zeros(samples).tensor_split(len(rows[-1]))]
    mean = sum(weight * share for weight, share in zip(weights, rows[-1], strict=True))
    assert mean == pytest.approx(first.record.result.train_accuracy, abs=1e-3)
    speeds = [sum(column) for column in zip(*rows, strict=True)]
    assert speeds == sorted(speeds, reverse=True)
