"""Tests of a study's plots: the drawn values, and the colours, dashes and shapes of methods."""

from pathlib import Path
from typing import Any

import altair as alt
import pytest
from pydantic import ValidationError
from support.studying import ended_run, small_study

from retrain.experiments import final_plots
from retrain.experiments.chain_plot import chain_plot
from retrain.experiments.chart_style import colour_of, dash_of, shape_of
from retrain.experiments.final_plots import varied_field
from retrain.experiments.grid import FIRST
from retrain.experiments.kept_runs import GRADIENTS, LEARNING_MAP, EndedRun, Measure
from retrain.experiments.map_plots import gradient_curves
from retrain.experiments.plots import curves, write_plots
from retrain.experiments.statistics import Group, groups, rows
from retrain.records import Curve


def drawn(chart: alt.TopLevelMixin) -> list[list[dict[str, Any]]]:
    """Return the values of each layer of a chart."""
    spec = chart.to_dict()
    shared = spec.get("data")
    return [spec["datasets"][layer.get("data", shared)["name"]] for layer in spec.get("layer", [spec])]


def in_batches_of(size: int, one: EndedRun) -> EndedRun:
    """Return a copy of the run with another batch size."""
    result = one.record.result
    assert result is not None
    cost = result.cost.model_copy(update={"samples": size * result.iterations})
    return one._replace(record=one.record.model_copy(update={"result": result.model_copy(update={"cost": cost})}))


def test_time_plot_counts_images_instead_of_iterations(tmp_path: Path) -> None:
    study = small_study(plots=["time"], fitted=1.0)
    slow, quick = ended_run("scratch", 0, {10: 0.4, 20: 0.5}), ended_run("naive", 0, {10: 0.5, 20: 0.6})
    by_group = groups(study, [in_batches_of(128, slow), in_batches_of(32, quick)])
    assert drawn(final_plots.time_plot(study, by_group)) == [
        [
            {"x": 1280, "y": 0.5, "method": "random", "panel": ""},
            {"x": 320, "y": 0.6, "method": "warm", "panel": ""},
        ]
    ]
    write_plots(study, by_group, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["time.png", "time.svg"]
    with pytest.raises(ValidationError, match="`time` needs a training loss or accuracy to reach"):
        small_study(plots=["time"])


def test_chain_plot_of_several_splits_is_refused() -> None:
    splits = {name: {"by": "classes", "sizes": name} for name in ("4+3+3", "6+2+2")}
    with pytest.raises(ValidationError, match="`chain` shows one split of one variant"):
        small_study(plots=["chain"], splits=splits)


def test_each_method_has_a_distinct_colour_with_dash_or_shape() -> None:
    methods = [f"method {number}" for number in range(20)]
    looks = [encode(methods).to_dict()["scale"]["range"] for encode in (colour_of, dash_of, shape_of)]
    assert len({str(each) for each in zip(looks[0], looks[1], strict=True)}) == 20
    assert len(set(zip(looks[0], looks[2], strict=True))) == 20


def test_dot_is_drawn_at_scratchs_accuracy_of_the_same_seeds() -> None:
    study = small_study(seeds=[0, 1])
    found = [
        ended_run("scratch", 0, {10: 0.4}),
        ended_run("scratch", 1, {10: 0.6}),
        ended_run("naive", 0, {5: 0.3, 10: 0.5}),
    ]
    (group, members), *_ = groups(study, found).items()
    *_, line, dots = drawn(curves(study, group, members, "accuracy"))
    assert line == [{"mean": 0.5}]
    assert {"method": "naive", "iteration": 10, "mean": 0.4} in dots


@pytest.mark.parametrize(("spread", "width"), [("error", 0.1), ("deviation", 0.02**0.5)])
def test_band_around_a_mean_is_the_studys_spread(spread: str, width: float) -> None:
    study = small_study(seeds=[0, 1], spread=spread)
    by_group = groups(study, [ended_run("scratch", 0, {10: 0.4}), ended_run("scratch", 1, {10: 0.6})])
    ((group, members),) = by_group.items()
    for chart in (curves(study, group, members, "accuracy"), final_plots.final_accuracy_plot(study, by_group)):
        (point,) = drawn(chart)[0]
        assert (point["low"], point["high"]) == pytest.approx((0.5 - width, 0.5 + width))


def test_last_training_loss_of_a_few_iterations_is_not_drawn() -> None:
    study = small_study()
    (group, members), *_ = groups(study, [ended_run("scratch", 0, {10: 0.4, 20: 0.5, 21: 0.5})]).items()
    layers = [drawn(curves(study, group, members, plot))[1] for plot in ("accuracy", "train_loss")]
    assert [[point["iteration"] for point in points] for points in layers] == [[10, 20, 21], [10, 20]]


def test_final_accuracies_are_drawn_over_the_varied_setting(tmp_path: Path) -> None:
    assert varied_field([Group("a", "s", 2), Group("a", "s", 3)]) == "drops"
    assert varied_field([Group("a", "s", 2), Group("a", "t", 2)]) == "split"
    assert varied_field([Group("a", "s", 2), Group("b", "s", 2)]) == "variant"
    study = small_study(splits={"7+3": {"by": "classes", "sizes": "4+3+3"}}, plots=["final"])
    found = [ended_run(method, 0, {10: 0.5}, drops) for drops in (2, 3) for method in ("scratch", "naive")]
    write_plots(study, groups(study, found), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final.png", "final.svg"]


def with_measures(one: EndedRun, **measures: Measure) -> EndedRun:
    record = one.record.model_copy(update={"parent": "first", "run_id": f"{one.cell.method}-{one.cell.variant}"})
    return one._replace(record=record, measures={name.replace("_", " "): value for name, value in measures.items()})


def test_accuracy_is_drawn_over_weight_correlation_by_network() -> None:
    study = small_study(plots=["correlation"], variants={"ResNet": {}, "logistic": {}})
    found = [
        with_measures(one._replace(cell=one.cell._replace(variant=variant)), correlation_of_weights=value)
        for variant, one, value in (
            ("ResNet", ended_run("naive", 0, {10: 0.5}), 0.9),
            ("ResNet", ended_run("init", 0, {10: 0.7}), 0.2),
            ("logistic", ended_run("naive", 0, {10: 0.3}), 0.8),
        )
    ]
    values = final_plots.correlation_plot(study, groups(study, found)).to_dict()["datasets"]
    assert [(point["panel"], point["x"], point["y"]) for point in next(iter(values.values()))] == [
        ("ResNet", 0.9, 0.5),
        ("ResNet", 0.2, 0.7),
        ("logistic", 0.8, 0.3),
    ]


def test_switch_plot_has_changes_in_percent_of_scratch() -> None:
    study = small_study(methods={"scratch": {"start": "scratch"}, "naive": {}}, plots=["switch"])
    found = [
        ended_run(FIRST, 0, {10: 0.2}, drops=1),
        ended_run("scratch", 0, {10: 0.5}),
        ended_run("naive", 0, {10: 0.4}),
    ]
    first, changes = final_plots.switch_plot(study, groups(study, found)).to_dict()["datasets"].values()
    assert [point["mean"] for point in first] == [0.2]
    assert [point["mean"] for point in changes] == [pytest.approx(-20)]


def test_chain_plot_measures_on_the_complete_test_set() -> None:
    """As in Verwimp et al., figure 6, images of later classes count as wrong, and the runs' iterations are summed."""
    study = small_study(methods={"scratch": {"start": "scratch"}, "naive": {}}, splits=THREE_DROPS, plots=["chain"])
    found = [
        on_images(60, ended_run(FIRST, 0, {10: 0.5}, drops=1)),
        *(
            on_images(80, one)
            for one in (ended_run("scratch", 0, {20: 0.6}), ended_run("naive", 0, {10: 0.6, 20: 0.7}))
        ),
        *(
            on_images(100, one)
            for one in (ended_run("scratch", 0, {20: 0.8}, 3), ended_run("naive", 0, {10: 0.7, 20: 0.8}, 3))
        ),
    ]
    bounds, lines, dots = drawn(chain_plot(study, groups(study, found)))
    assert [(point["iteration"], point["mean"]) for point in bounds] == [(0, 0.6), (10, 0.8), (30, 1.0), (50, 1.0)]
    means = [(point["iteration"], pytest.approx(point["mean"])) for point in lines]
    assert means == [(10, 0.3), (20, 0.48), (30, 0.56), (40, 0.7), (50, 0.8)]
    assert [(dot["iteration"], pytest.approx(dot["mean"])) for dot in dots] == [(20, 0.48), (50, 0.8)]


THREE_DROPS = {"7+3": {"by": "classes", "sizes": "6+2+2"}}


def on_images(images: int, one: EndedRun) -> EndedRun:
    points = tuple(point.model_copy(update={"images": images}) for point in one.curve.points)
    return one._replace(curve=Curve(points=points))


def test_maps_and_gradient_curves_are_written_if_measured(tmp_path: Path) -> None:
    study = small_study(plots=["learning_map", "gradient_norms", "loss", "cost", "train_accuracy"])
    first = ended_run(FIRST, 0, {10: 0.2}, drops=1)._replace(measures={LEARNING_MAP: [[1.0, 0.0], [1.0, 0.5]]})
    curve = {f"{GRADIENTS}, old": [[0, 0.0], [10, 2.0]], f"{GRADIENTS}, new": [[0, 9.0], [10, 3.0]]}
    found = [first, ended_run("scratch", 0, {10: 0.5}), ended_run("naive", 0, {10: 0.4})._replace(measures=curve)]
    write_plots(study, groups(study, found), tmp_path)
    assert sorted(path.stem for path in tmp_path.glob("*.svg")) == [
        "cost",
        "gradient-norms-7-3-task-2",
        "learning-map-7-3-task-1",
        "loss-7-3-task-2",
        "train-accuracy-7-3-task-2",
    ]
    (norms,) = drawn(gradient_curves(study, Group("task", "7+3", 2), found))
    assert [(point["method"], point["iteration"], point["norm"]) for point in norms] == [
        ("naive, old", 1, 1e-9),  # zeros do not fit on logarithmic axes
        ("naive, old", 11, 2.0),
        ("naive, new", 1, 9.0),
        ("naive, new", 11, 3.0),
    ]


def test_l_r_can_be_a_ratio_of_numbers_of_images() -> None:
    """Verwimp et al., section 2, allow other costs than iterations in L_r."""
    found = [
        in_batches_of(128, ended_run("scratch", 0, {10: 0.5})),
        in_batches_of(32, ended_run("naive", 0, {10: 0.5})),
    ]
    speeds = [
        next(row for row in rows(small_study(cost=cost), found) if row.method == "naive").speed_ups["scratch"][100].mean
        for cost in ("iterations", "images")
    ]
    assert speeds == [1, 4]
