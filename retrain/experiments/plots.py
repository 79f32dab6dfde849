"""Plots of a study's runs."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import altair as alt

from retrain.experiments import final_plots, map_plots
from retrain.experiments.chain_plot import chain_plot
from retrain.experiments.chart_style import chart_of, colour_of, dash_of, finish_chart, save_chart
from retrain.experiments.kept_runs import GRADIENTS, LEARNING_MAP, EndedRun
from retrain.experiments.settings import Spread, Study
from retrain.experiments.statistics import Group, estimate, final_of, reached_at
from retrain.records import Curve, Point


def picture_name(group: Group, plot: str) -> str:
    """Return the file name of a group's picture, without suffix."""
    return re.sub(r"[^a-z0-9]+", "-", f"{plot}-{group.split}-{group.variant}-{group.drops}".lower()).strip("-")


GROUP_PLOTS: dict[str, Callable[[Study, Group, Sequence[EndedRun]], alt.TopLevelMixin | None]] = {
    "accuracy": lambda study, group, members: curves(study, group, members, "accuracy"),
    "train_loss": lambda study, group, members: curves(study, group, members, "train_loss"),
    "train_accuracy": lambda study, group, members: curves(study, group, members, "train_accuracy"),
    "loss": lambda study, group, members: curves(study, group, members, "loss"),
    "learning_speed": map_plots.learning_speed_map,
    "learning_map": map_plots.learning_map,
    "gradient_norms": map_plots.gradient_curves,
}
"""Plots of each group."""

OVERALL_PLOTS = {
    "final": final_plots.final_accuracy_plot,
    "cost": final_plots.cost_plot,
    "time": final_plots.time_plot,
    "correlation": final_plots.correlation_plot,
    "switch": final_plots.switch_plot,
    "chain": chain_plot,
}
"""Plots over all groups of a study."""


def write_plots(study: Study, by_group: Mapping[Group, list[EndedRun]], folder: Path) -> None:
    """Write a study's pictures as SVG and PNG."""
    for group, plot in drawn_of_groups(study, by_group):
        if chart := GROUP_PLOTS[plot](study, group, by_group[group]):
            save_chart(chart, folder / picture_name(group, plot))
    for plot in study.plots:
        if plot in OVERALL_PLOTS:
            save_chart(OVERALL_PLOTS[plot](study, by_group), folder / plot)


def drawn_of_groups(study: Study, by_group: Mapping[Group, Sequence[EndedRun]]) -> Iterator[tuple[Group, str]]:
    """Yield each group with each of its plots.

    The plots `learning_map` and `gradient_norms` need runs with this measure. The other plots need a group after the
    first drop.
    """
    for group, members in by_group.items():
        for plot in study.plots:
            shown = any(LEARNING_MAP in one.measures for one in members) if plot == "learning_map" else group.drops > 1
            if plot == "gradient_norms":
                shown = any(name.startswith(GRADIENTS) for one in members for name in one.measures)
            if plot in GROUP_PLOTS and shown:
                yield group, plot


def curves(study: Study, group: Group, members: Sequence[EndedRun], plot: str) -> alt.TopLevelMixin:
    """Return a chart of a group's curves: means, bands of the study's spread and, for accuracies, dots at L_100."""
    drawn = [one for one in members if not study.draw or one.cell.method in study.draw]
    methods = list(dict.fromkeys(one.cell.method for one in drawn))
    colour = colour_of(methods)
    x = alt.X("iteration:Q", title="iterations", axis=alt.Axis(format="~s", grid=False))
    y = _axis(study, plot)
    base = chart_of(_means(study.spread, drawn, plot)).encode(x=x, color=colour)
    layers = [base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q"), y2="high:Q")]
    layers.append(base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash_of(methods)))
    if plot == "accuracy":
        finals = _reference_finals(study, members)
        layers.append(chart_of([{"mean": estimate(list(finals.values())).mean}]).mark_rule(color="#777777").encode(y=y))
        crossings = chart_of(_crossings(drawn, finals)).encode(x=x, y=y, color=colour)
        layers.append(crossings.mark_point(filled=True, size=70, opacity=1, stroke="white"))
    return finish_chart(alt.layer(*layers).properties(width=560, height=340, title=f"{group.split}, {group.variant}"))


def _axis(study: Study, plot: str) -> alt.Y:
    if plot != "accuracy":
        titles = {"train_loss": "training loss", "train_accuracy": "training accuracy"}
        return alt.Y("mean:Q", title=titles.get(plot, f"loss on {study.stop_on}"), scale=alt.Scale(zero=False))
    title = f"accuracy on {study.stop_on} (line: end of {study.against[0]}; dots: L_100)"
    return alt.Y("mean:Q", title=title, axis=alt.Axis(format=".3~p"), scale=alt.Scale(zero=False))


def _means(spread: Spread, runs: Sequence[EndedRun], plot: str) -> Iterator[dict[str, Any]]:
    """Yield mean and band at every evaluation. All seeds are evaluated at the same iterations."""
    at: dict[tuple[str, int], list[float | None]] = defaultdict(list)
    for one in runs:
        for point in _drawn(one.curve, plot):
            at[one.cell.method, point.iteration].append(getattr(point, plot))
    for (method, iteration), values in at.items():
        found = estimate(values)
        if found.mean is not None:
            yield {"method": method, "iteration": iteration, **found.band(spread)}


def _drawn(curve: Curve, plot: str) -> Sequence[Point]:
    """Return the points to draw. A last training loss or accuracy of a few iterations is left out as noise."""
    points = curve.points
    is_short = len(points) > 1 and 2 * (points[-1].iteration - points[-2].iteration) < points[0].iteration
    return points[:-1] if plot.startswith("train") and is_short else points


def _reference_finals(study: Study, members: Sequence[EndedRun]) -> dict[int, float]:
    """Return the final accuracy of the first method in `Study.against`, by seed, without diverged runs."""
    finals = {one.cell.seed: final_of(one) for one in members if one.cell.method == study.against[0]}
    return {seed: final for seed, final in finals.items() if final is not None}


def _crossings(drawn: Sequence[EndedRun], finals: Mapping[int, float]) -> Iterator[dict[str, Any]]:
    """Yield the mean point at which a method reached the reference's final accuracy, if it did so with every seed."""
    for method, runs in groupby(drawn, key=lambda one: one.cell.method):
        compared = [one for one in runs if one.cell.seed in finals]
        mean, _, n, of = estimate([reached_at(one.curve, finals[one.cell.seed]) for one in compared])
        if mean is not None and n == of:
            final = estimate([finals[one.cell.seed] for one in compared]).mean
            yield {"method": method, "iteration": mean, "mean": final}
