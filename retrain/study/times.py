"""Accuracy against training time: what each method ended with, over what it took to fit its training data."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import altair as alt

from retrain.study.kept import Ran
from retrain.study.look import colour_of, finished, shape_of
from retrain.study.settings import Study
from retrain.study.table import Group, estimate, fitted_at, rows


def final(study: Study, by_group: Mapping[Group, Sequence[Ran]]) -> alt.TopLevelMixin:
    """Return a point for each method in each group that came, with every seed, to the training loss `Study.fitted`.

    Time is counted in images, which are the same work whatever the batch size and the machine.
    """
    points = [point for members in by_group.values() for point in _points(study, members)]
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
    return finished(drawn.properties(width=560, height=340, title=study.title))


def _points(study: Study, members: Sequence[Ran]) -> Iterator[dict[str, Any]]:
    finals = {row.method: row.final.mean for row in rows(study, members)}
    for method, runs in groupby(members, key=lambda one: one.cell.method):
        images = estimate([_images(one, study.fitted) for one in runs])
        if images.n == images.of and finals[method] is not None:
            yield {"method": method, "images": images.mean, "mean": finals[method]}


def _images(one: Ran, loss: float | None) -> float | None:
    """How many images a run had trained on when its training loss was as low as this; None if it never was."""
    iterations, result = fitted_at(one.curve, loss), one.record.result
    return iterations * result.cost.samples / result.cost.iterations if iterations and result else None
