"""Plots of measurements during trainings: maps of samples, and norms of gradients."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from retrain.experiments.chart_style import chart_of, colour_of, dash_of, finish_chart
from retrain.experiments.kept_runs import GRADIENTS, LEARNING_MAP, MAP, EndedRun, Measure
from retrain.experiments.settings import Study
from retrain.experiments.statistics import Group, estimate

CUTS = (0.1, 0.9)
"""Shares at which the easiest and the hardest tenth of the samples are cut off."""


def learning_speed_map(study: Study, group: Group, members: Sequence[EndedRun]) -> alt.TopLevelMixin:
    """Return a map for each method: the share of old samples by learning speed, as the mean over seeds."""
    percent = alt.Axis(format=".0%", grid=False, values=[0, 0.5, 1])
    chart = (
        chart_of(_squares(members))
        .mark_rect()
        .encode(
            x=alt.X("after:Q", title="learning speed in this run", axis=percent),
            x2="after_end:Q",
            y=alt.Y("before:Q", title="learning speed in the previous run", axis=percent),
            y2="before_end:Q",
            color=alt.Color("share:Q", title="share of old samples", scale=alt.Scale(scheme="viridis", type="sqrt")),
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
        for row, column in _bins(rows):
            share = sum(each[row][column] for each in rows) / len(rows)
            bins = len(rows[0])
            before = {"before": row / bins, "before_end": (row + 1) / bins}
            after = {"after": column / bins, "after_end": (column + 1) / bins}
            yield {"method": method, "share": share, **before, **after}


def _bins(maps: Sequence[list[list[float]]]) -> Iterator[tuple[int, int]]:
    bins = range(len(maps[0]) if maps else 0)
    return ((row, column) for row in bins for column in bins)


def learning_map(study: Study, group: Group, members: Sequence[EndedRun]) -> alt.TopLevelMixin | None:
    """Return a map of samples by epoch for the first measured run: easy samples at the bottom, lines at `CUTS`."""
    maps = [rows for one in members if isinstance(rows := one.measures.get(LEARNING_MAP), list)]
    if not maps:
        return None
    squares = [
        {
            "epoch": epoch,
            "low": position / len(row),
            "high": (position + 1) / len(row),
            "share": share,
            "next": epoch + 1,
        }
        for epoch, row in enumerate(maps[0])
        for position, share in enumerate(row)
    ]
    axis = alt.Axis(format=".0%", grid=False)
    y = alt.Y("low:Q", title="samples, those learnt first at the bottom", axis=axis, scale=alt.Scale(domain=[0, 1]))
    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(grid=False))
    colour = alt.Color("share:Q", title="classified correctly", scale=alt.Scale(scheme="viridis", domain=[0, 1]))
    cells = chart_of(squares).mark_rect()
    cuts = chart_of([{"low": cut} for cut in CUTS]).mark_rule(color="white", strokeWidth=2)
    drawn = alt.layer(cells.encode(x=x, x2="next:Q", y=y, y2="high:Q", color=colour), cuts.encode(y=y))
    return finish_chart(drawn.properties(width=560, height=340, title=f"{group.split}, {group.variant}, first run"))


def gradient_curves(study: Study, group: Group, members: Sequence[EndedRun]) -> alt.TopLevelMixin | None:
    """Return a chart of the mean norms of old and new samples' gradients over iterations. Both axes are logarithmic."""
    points = list(_norms(members))
    if not points:
        return None
    kinds = list(dict.fromkeys(point["method"] for point in points))
    chart = (
        chart_of(points)
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X(
                "iteration:Q",
                title="iterations, counted from 1",
                scale=alt.Scale(type="log"),
                axis=alt.Axis(grid=False),
            ),
            y=alt.Y("norm:Q", title="mean norm of a sample's gradient", scale=alt.Scale(type="log")),
            color=colour_of(kinds),
            strokeDash=dash_of(kinds),
        )
    )
    which = "first run" if group.drops == 1 else f"{group.drops} drops"
    return finish_chart(chart.properties(width=560, height=340, title=f"{group.split}, {group.variant}, {which}"))


def _norms(members: Sequence[EndedRun]) -> Iterator[dict[str, Any]]:
    """Yield means over seeds. Iterations are counted from 1: a logarithmic axis cannot show 0."""
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for one in members:
        for name, curve in one.measures.items():
            for iteration, norm in _curve(name, curve):
                found[f"{one.cell.method}, {name.removeprefix(f'{GRADIENTS}, ')}", int(iteration)].append(norm)
    for (method, iteration), norms in found.items():
        yield {"method": method, "iteration": iteration + 1, "norm": max(estimate(norms).mean or 0.0, 1e-9)}


def _curve(name: str, curve: Measure) -> list[list[float]]:
    return curve if name.startswith(f"{GRADIENTS}, ") and isinstance(curve, list) else []
