"""How all pictures of studies look."""

from collections.abc import Sequence

import altair as alt

COLOURS = ["#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f", "#6a3d9a"]
"""Okabe and Ito's, told apart by those who do not see all colours, and three more."""


def colour_of(methods: Sequence[str]) -> alt.Color:
    """Return the encoding of methods as colours, in their order; more methods than colours share them."""
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(methods))]
    return alt.Color("method:N", title=None, scale=alt.Scale(domain=list(methods), range=colours))


def finished(chart: alt.TopLevelMixin) -> alt.TopLevelMixin:
    """Return a chart with the background, font and legend that all have."""
    dressed: alt.TopLevelMixin = (
        chart.configure(background="white", font="sans-serif", padding=8)
        .configure_view(stroke=None)
        .configure_legend(orient="right", labelLimit=0, symbolType="stroke", symbolStrokeWidth=3, symbolOpacity=1)
    )
    return dressed
