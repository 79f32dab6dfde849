"""Plots of the accuracy that runs ended with, by setting or by training time."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import altair as alt

from retrain.experiments.chart_style import colour_of, dash_of, finish_chart, shape_of
from retrain.experiments.kept_runs import EndedRun
from retrain.experiments.settings import Study
from retrain.experiments.statistics import Group, estimate, fitted_at, rows


def final_accuracy_plot(study: Study, by_group: Mapping[Group, Sequence[EndedRun]]) -> alt.TopLevelMixin:
    """Return the mean final accuracy of each method in each group, and one standard error to either side."""
    varied = varies(list(by_group))
    methods = [name for name in study.methods if not study.draw or name in study.draw]
    points = [point for point in _final_points(study, by_group, varied) if point["method"] in methods]
    base = alt.Chart(alt.InlineData(values=points)).encode(
        x=alt.X("group:N", title=varied, sort=None, axis=alt.Axis(labelAngle=0)), color=colour_of(methods)
    )
    y = alt.Y(
        "mean:Q", title=f"final accuracy on {study.stop_on}", axis=alt.Axis(format=".3~p"), scale=alt.Scale(zero=False)
    )
    drawn = alt.layer(
        base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", scale=alt.Scale(zero=False)), y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash_of(methods)),
        base.mark_point(filled=True, size=50, opacity=1).encode(y=y),
    )
    return finish_chart(drawn.properties(width=560, height=340, title=study.title))


def varies(groups: Sequence[Group]) -> str:
    """Return what differs between groups: drops if that does, else split if that does, else variant."""
    for field in ("drops", "split"):
        if len({getattr(group, field) for group in groups}) > 1:
            return field
    return "variant"


def _final_points(study: Study, by_group: Mapping[Group, Sequence[EndedRun]], varied: str) -> Iterator[dict[str, Any]]:
    for group, members in by_group.items():
        for row in rows(study, members):
            if row.final.mean is not None:
                error = row.final.error or 0.0
                mean = row.final.mean
                place = {"group": str(getattr(group, varied)), "method": row.method}
                yield {**place, "mean": mean, "low": mean - error, "high": mean + error}


def time_plot(study: Study, by_group: Mapping[Group, Sequence[EndedRun]]) -> alt.TopLevelMixin:
    """Return a point for each method in each group that came, with every seed, to the training loss `Study.fitted`.

    Time is counted in images, which are the same work whatever the batch size and the machine.
    """
    points = [point for members in by_group.values() for point in _time_points(study, members)]
    methods = [method for method in study.methods if any(point["method"] == method for point in points)]
    x = alt.X(
        "images:Q",
        title=f"training images until a training loss of {study.fitted:g}",
        axis=alt.Axis(format="~s"),
        scale=alt.Scale(zero=False),
    )
    y = alt.Y(
        "mean:Q", title=f"final accuracy on {study.stop_on}", axis=alt.Axis(format=".3~p"), scale=alt.Scale(zero=False)
    )
    chart = alt.Chart(alt.InlineData(values=points)).mark_point(filled=True, size=70, opacity=0.9)
    drawn = chart.encode(x=x, y=y, color=colour_of(methods), shape=shape_of(methods))
    return finish_chart(drawn.properties(width=560, height=340, title=study.title))


def _time_points(study: Study, members: Sequence[EndedRun]) -> Iterator[dict[str, Any]]:
    finals = {row.method: row.final.mean for row in rows(study, members)}
    for method, runs in groupby(members, key=lambda one: one.cell.method):
        images = estimate([_images_until(one, study.fitted) for one in runs])
        if images.n == images.of and finals[method] is not None:
            yield {"method": method, "images": images.mean, "mean": finals[method]}


def _images_until(one: EndedRun, loss: float | None) -> float | None:
    """How many images a run had trained on when its training loss was as low as this; None if it never was."""
    iterations, result = fitted_at(one.curve, loss), one.record.result
    return iterations * result.cost.samples / result.cost.iterations if iterations and result else None
