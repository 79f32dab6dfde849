"""A study's pictures: what is drawn where, and how methods are told apart."""

from pathlib import Path
from typing import Any

import altair as alt
import pytest
from pydantic import ValidationError
from support.studying import ran, small_study

from retrain.experiments import final_plots
from retrain.experiments.chart_style import colour_of, dash_of, shape_of
from retrain.experiments.final_plots import varies
from retrain.experiments.kept_runs import EndedRun
from retrain.experiments.plots import curves, write_plots
from retrain.experiments.statistics import Group, groups


def drawn(chart: alt.TopLevelMixin) -> list[list[dict[str, Any]]]:
    """The values of each layer of a chart."""
    spec = chart.to_dict()
    shared = spec.get("data")
    return [spec["datasets"][layer.get("data", shared)["name"]] for layer in spec.get("layer", [spec])]


def in_batches_of(size: int, one: EndedRun) -> EndedRun:
    """The same run, but for how many images an iteration took."""
    result = one.record.result
    assert result is not None
    cost = result.cost.model_copy(update={"samples": size * result.iterations})
    return one._replace(record=one.record.model_copy(update={"result": result.model_copy(update={"cost": cost})}))


def test_accuracy_is_drawn_against_the_images_that_it_took_to_fit_whatever_the_batch_size(tmp_path: Path) -> None:
    study = small_study(plots=["time"], fitted=1.0)
    slow, quick = ran("scratch", 0, {10: 0.4, 20: 0.5}), ran("naive", 0, {10: 0.5, 20: 0.6})
    by_group = groups(study, [in_batches_of(128, slow), in_batches_of(32, quick)])
    assert drawn(final_plots.time_plot(study, by_group)) == [
        [
            {"method": "scratch", "images": 1280, "mean": 0.5},
            {"method": "naive", "images": 320, "mean": 0.6},
        ]
    ]
    write_plots(study, by_group, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["time.png", "time.svg"]
    with pytest.raises(ValidationError, match="time needs fitted"):
        small_study(plots=["time"])


def test_no_two_of_many_methods_look_alike() -> None:
    methods = [f"method {number}" for number in range(20)]
    looks = [encode(methods).to_dict()["scale"]["range"] for encode in (colour_of, dash_of, shape_of)]
    assert len({str(each) for each in zip(looks[0], looks[1], strict=True)}) == 20
    assert len(set(zip(looks[0], looks[2], strict=True))) == 20


def test_a_crossing_is_drawn_on_the_bar_of_the_seeds_that_it_is_compared_with() -> None:
    study = small_study(seeds=[0, 1])
    found = [ran("scratch", 0, {10: 0.4}), ran("scratch", 1, {10: 0.6}), ran("naive", 0, {5: 0.3, 10: 0.5})]
    (group, members), *_ = groups(study, found).items()
    *_, line, dots = drawn(curves(study, group, members, "accuracy"))
    assert line == [{"mean": 0.5}]
    assert {"method": "naive", "iteration": 10, "mean": 0.4} in dots


def test_a_last_training_loss_of_a_few_iterations_is_not_drawn() -> None:
    study = small_study()
    (group, members), *_ = groups(study, [ran("scratch", 0, {10: 0.4, 20: 0.5, 21: 0.5})]).items()
    layers = [drawn(curves(study, group, members, plot))[1] for plot in ("accuracy", "train_loss")]
    assert [[point["iteration"] for point in points] for points in layers] == [[10, 20, 21], [10, 20]]


def test_final_accuracies_are_drawn_over_what_the_study_varies(tmp_path: Path) -> None:
    assert varies([Group("a", "s", 2), Group("a", "s", 3)]) == "drops"
    assert varies([Group("a", "s", 2), Group("a", "t", 2)]) == "split"
    assert varies([Group("a", "s", 2), Group("b", "s", 2)]) == "variant"
    study = small_study(splits={"7+3": {"by": "classes", "sizes": "4+3+3"}}, plots=["final"])
    found = [ran(method, 0, {10: 0.5}, drops) for drops in (2, 3) for method in ("scratch", "naive")]
    write_plots(study, groups(study, found), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final.png", "final.svg"]
