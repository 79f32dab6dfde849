"""Plots of a study's runs."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, product
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from retrain.experiments import final_plots
from retrain.experiments.chart_style import colour_of, dash_of, finish_chart
from retrain.experiments.kept_runs import MAP, EndedRun
from retrain.experiments.settings import Study
from retrain.experiments.statistics import Group, estimate, reached_at
from retrain.records import Curve, Point


def learning_speed_map(group: Group, members: Sequence[EndedRun]) -> alt.TopLevelMixin:
    """Return a map for each method: the share of old samples by learning speed, the mean over seeds."""
    percent = alt.Axis(format=".0%", grid=False, values=[0, 0.5, 1])
    chart = (
        alt.Chart(alt.InlineData(values=list(_squares(members))))
        .mark_rect()
        .encode(
            x=alt.X("after:Q", title="learning speed in this run", axis=percent),
            x2="after_end:Q",
            y=alt.Y("before:Q", title="in the run before", axis=percent),
            y2="before_end:Q",
            color=alt.Color("share:Q", title="of old samples", scale=alt.Scale(scheme="viridis", type="sqrt")),
        )
        .properties(width=150, height=150)
        .facet(facet=alt.Facet("method:N", title=None, sort=None), columns=4)
        .properties(title=f"{group.split}, {group.variant}")
    )
    return finish_chart(chart)


def _squares(members: Sequence[EndedRun]) -> Iterator[dict[str, Any]]:
    for method in dict.fromkeys(one.cell.method for one in members):
        maps = [one.measures[MAP] for one in members if one.cell.method == method and MAP in one.measures]
        rows = [each for each in maps if isinstance(each, list)]
        for row, column in _places(rows):
            share = sum(each[row][column] for each in rows) / len(rows)
            bins = len(rows[0])
            before = {"before": row / bins, "before_end": (row + 1) / bins}
            after = {"after": column / bins, "after_end": (column + 1) / bins}
            yield {"method": method, "share": share, **before, **after}


def _places(maps: Sequence[list[list[float]]]) -> Iterator[tuple[int, int]]:
    bins = range(len(maps[0]) if maps else 0)
    return ((row, column) for row in bins for column in bins)


def picture_name(group: Group, plot: str) -> str:
    """Return the name of a group's picture, without suffix."""
    return re.sub(r"[^a-z0-9]+", "-", f"{plot}-{group.split}-{group.variant}-{group.drops}".lower()).strip("-")


def write_plots(study: Study, by_group: Mapping[Group, Sequence[EndedRun]], folder: Path) -> None:
    """Write each group's pictures as SVG and PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for (group, members), plot in product(by_group.items(), study.plots):
        if plot == "learning_speed":
            _save(learning_speed_map(group, members), folder / picture_name(group, plot))
        elif plot in ("accuracy", "train_loss"):
            _save(curves(study, group, members, plot), folder / picture_name(group, plot))
    if "final" in study.plots:
        _save(final_plots.final_accuracy_plot(study, by_group), folder / "final")
    if "time" in study.plots:
        _save(final_plots.time_plot(study, by_group), folder / "time")


def _save(chart: alt.TopLevelMixin, path: Path) -> None:
    drawn = chart.to_json()
    path.with_suffix(".svg").write_text(vl_convert.vegalite_to_svg(drawn), encoding="utf-8")
    path.with_suffix(".png").write_bytes(vl_convert.vegalite_to_png(drawn))


def curves(study: Study, group: Group, members: Sequence[EndedRun], plot: str) -> alt.TopLevelMixin:
    """Return a group's curves: mean, a band of one standard error and, for accuracies, the crossings of L_100."""
    drawn = [one for one in members if not study.draw or one.cell.method in study.draw]
    methods = list(dict.fromkeys(one.cell.method for one in drawn))
    colour = colour_of(methods)
    x = alt.X("iteration:Q", title="iterations", axis=alt.Axis(format="~s", grid=False))
    y = _axis(study, plot)
    base = _table(_means(drawn, plot)).encode(x=x, color=colour)
    layers = [base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q"), y2="high:Q")]
    layers.append(base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash_of(methods)))
    if plot == "accuracy":
        bars = _bars(study, members)
        layers.append(_table([{"mean": estimate(list(bars.values())).mean}]).mark_rule(color="#777777").encode(y=y))
        crossings = _table(_crossings(drawn, bars)).encode(x=x, y=y, color=colour)
        layers.append(crossings.mark_point(filled=True, size=70, opacity=1, stroke="white"))
    return finish_chart(alt.layer(*layers).properties(width=560, height=340, title=f"{group.split}, {group.variant}"))


def _axis(study: Study, plot: str) -> alt.Y:
    if plot == "train_loss":
        return alt.Y("mean:Q", title="training loss", scale=alt.Scale(zero=False))
    title = f"accuracy on {study.stop_on} (line: end of {study.against[0]}; dots: L_100)"
    return alt.Y("mean:Q", title=title, axis=alt.Axis(format=".3~p"), scale=alt.Scale(zero=False))


def _table(rows: Iterable[Mapping[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=list(rows)))


def _means(ran: Sequence[EndedRun], plot: str) -> Iterator[dict[str, Any]]:
    """Mean and band at every evaluation: seeds are evaluated on one grid."""
    at: dict[tuple[str, int], list[float | None]] = defaultdict(list)
    for one in ran:
        for point in _drawn(one.curve, plot):
            at[one.cell.method, point.iteration].append(getattr(point, plot))
    for (method, iteration), values in at.items():
        mean, error, _, _ = estimate(values)
        if mean is not None:
            band = {"low": mean - (error or 0), "high": mean + (error or 0)}
            yield {"method": method, "iteration": iteration, "mean": mean, **band}


def _drawn(curve: Curve, plot: str) -> Sequence[Point]:
    """All points; of training losses not a last one that is the mean of a few iterations only, and so mostly noise."""
    points = curve.points
    is_short = len(points) > 1 and 2 * (points[-1].iteration - points[-2].iteration) < points[0].iteration
    return points[:-1] if plot == "train_loss" and is_short else points


def _bars(study: Study, members: Sequence[EndedRun]) -> dict[int, float]:
    """What the first of `Study.against` ended with, by seed."""
    return {one.cell.seed: one.curve.points[-1].accuracy for one in members if one.cell.method == study.against[0]}


def _crossings(drawn: Sequence[EndedRun], bars: Mapping[int, float]) -> Iterator[dict[str, Any]]:
    """Where each method came, on average, to what scratch ended with; only if it did with every seed."""
    for method, runs in groupby(drawn, key=lambda one: one.cell.method):
        compared = [one for one in runs if one.cell.seed in bars]
        mean, _, n, of = estimate([reached_at(one.curve, bars[one.cell.seed]) for one in compared])
        if mean is not None and n == of:
            bar = estimate([bars[one.cell.seed] for one in compared]).mean
            yield {"method": method, "iteration": mean, "mean": bar}
