"""The style of a study's plots: colours, dashes and shapes that can be distinguished without colour vision."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

COLOURS = ["#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
"""Okabe and Ito's palette for colour-blind readers. Yellow is left out, because it is hard to see on white."""
DASHES = [[1, 0], [5, 3], [2, 2]]
"""Solid, dashed and dotted: one for each pass through the colours."""
SHAPES = ["circle", "triangle-up", "square"]
"""Shapes of points, one for each pass through the colours."""
WIDE_PADDING = {"left": 36, "top": 8, "right": 28, "bottom": 8}
"""Pixels around a chart with long labels. A browser without Arial draws text up to a fifth wider than the labels were
measured."""


def chart_of(rows: Iterable[Mapping[str, Any]]) -> alt.Chart:
    """Return a chart that contains these rows."""
    return alt.Chart(alt.InlineData(values=list(rows)))


def colour_of(methods: Sequence[str]) -> alt.Color:
    """Return the encoding of methods as colours, in order. With more methods than colours, add `dash_of`."""
    return alt.Color("method:N", title=None, scale=_scale(methods, COLOURS, 1))


def dash_of(methods: Sequence[str]) -> alt.StrokeDash:
    """Return the encoding that distinguishes lines of one colour."""
    return alt.StrokeDash("method:N", title=None, scale=_scale(methods, DASHES, len(COLOURS)))


def shape_of(methods: Sequence[str]) -> alt.Shape:
    """Return the encoding that distinguishes points of one colour."""
    return alt.Shape("method:N", title=None, scale=_scale(methods, SHAPES, len(COLOURS)))


def _scale(methods: Sequence[str], values: Sequence[Any], each: int) -> alt.Scale:
    """Return a scale that gives each value to `each` methods in a row. After the last value, the first follows."""
    found = [values[number // each % len(values)] for number in range(len(methods))]
    return alt.Scale(domain=list(methods), range=found)


def finish_chart(chart: alt.TopLevelMixin) -> alt.TopLevelMixin:
    """Return a chart with the common background, font and legend."""
    configured: alt.TopLevelMixin = (
        chart.configure(background="white", font="sans-serif", padding=8)
        .configure_view(stroke=None)
        .configure_legend(orient="right", labelLimit=0, symbolType="stroke", symbolStrokeWidth=3, symbolOpacity=1)
    )
    return configured


def save_chart(chart: alt.TopLevelMixin, path: Path, scale: float = 1) -> None:
    """Create a folder, and write a chart to `path` as .svg and .png. The .png is enlarged by `scale`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = chart.to_json()
    path.with_suffix(".svg").write_text(vl_convert.vegalite_to_svg(drawn), encoding="utf-8")
    path.with_suffix(".png").write_bytes(vl_convert.vegalite_to_png(drawn, scale=scale))
