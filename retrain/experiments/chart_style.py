"""The look of every plot of a study: colours, dashes and shapes that are told apart without colour vision."""

from collections.abc import Sequence
from typing import Any

import altair as alt

COLOURS = ["#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
"""Okabe and Ito's, told apart by those who do not see all colours; without their yellow, which is lost on white."""
DASHES = [[1, 0], [5, 3], [2, 2]]
"""Whole, dashed, dotted: one for each round through the colours."""
SHAPES = ["circle", "triangle-up", "square"]
"""The same for points."""


def colour_of(methods: Sequence[str]) -> alt.Color:
    """Return the encoding of methods as colours, in their order; see `dash_of` where there are more than colours."""
    return alt.Color("method:N", title=None, scale=_scale(methods, COLOURS, 1))


def dash_of(methods: Sequence[str]) -> alt.StrokeDash:
    """Return the encoding that tells lines of one colour apart."""
    return alt.StrokeDash("method:N", title=None, scale=_scale(methods, DASHES, len(COLOURS)))


def shape_of(methods: Sequence[str]) -> alt.Shape:
    """Return the encoding that tells points of one colour apart."""
    return alt.Shape("method:N", title=None, scale=_scale(methods, SHAPES, len(COLOURS)))


def _scale(methods: Sequence[str], values: Sequence[Any], each: int) -> alt.Scale:
    """Give every value to so many methods, then the next, and begin anew when all are given."""
    found = [values[number // each % len(values)] for number in range(len(methods))]
    return alt.Scale(domain=list(methods), range=found)


def finish_chart(chart: alt.TopLevelMixin) -> alt.TopLevelMixin:
    """Return a chart with the background, font and legend that all have."""
    dressed: alt.TopLevelMixin = (
        chart.configure(background="white", font="sans-serif", padding=8)
        .configure_view(stroke=None)
        .configure_legend(orient="right", labelLimit=0, symbolType="stroke", symbolStrokeWidth=3, symbolOpacity=1)
    )
    return dressed
