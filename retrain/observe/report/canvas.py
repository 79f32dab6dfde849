"""How every chart is drawn: SVG whose text stays text, whose marks say what they are, in the page's CSS colours."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup

Row = Mapping[str, Any]
Chart = alt.Chart | alt.LayerChart | alt.FacetChart

CLOCK = {"hours": "%H:%M", "minutes": "%H:%M"}
"""24 hours, as everywhere else; days, months and years are told as they are by default."""
LINK = '<a xlink:href="https://vega.github.io/vega-datasets/#'
"""What the renderer makes of a link to a place in the page."""
OWN_LINK = '<a tabindex="-1" xlink:href="#'
"""A link within the page, for pointers: hundreds of stops would keep a keyboard from the table, which has them all."""
LABELLED = re.compile(r'<path aria-label="([^"]*)"([^>]*)/>')
TITLED = r"<path\2><title>\1</title></path>"
"""A title names the mark as the label did, and shows under a pointer too."""


def svg(chart: Chart, width: int, height: int) -> Markup:
    """Draw a chart in this size, in pixels, axes included."""
    quiet: Row = {"labelColor": "var(--muted)", "titleColor": "var(--muted)", "labelFontSize": 12, "titleFontSize": 12}
    styled = (
        chart.properties(width=width, height=height, autosize=alt.AutoSizeParams(type="fit", contains="padding"))
        .configure(background="transparent", font="system-ui, sans-serif", padding=4)
        .configure_view(stroke=None)
        .configure_axis(**quiet, titleFontWeight="normal", gridColor="var(--line)", domain=False, ticks=False)
        .configure_legend(**quiet, orient="top", title=None, labelLimit=0, columnPadding=24, symbolStrokeWidth=2.5)
    )
    drawn = vl_convert.vegalite_to_svg(styled.to_json()).replace(LINK, OWN_LINK)
    return Markup(LABELLED.sub(TITLED, drawn))


def table(rows: Sequence[Row]) -> alt.Chart:
    """Return a chart over these rows."""
    return alt.Chart({"values": list(rows)})


def milliseconds(time: datetime) -> int:
    """Return a time as charts take it."""
    return int(time.timestamp() * 1000)


def time_axis(span: tuple[datetime, datetime] | None = None, labels: bool = True) -> alt.X:
    """Return the column `at` as times in UTC along x; charts of one span line up."""
    domain = [milliseconds(end) for end in span] if span else alt.Undefined
    axis = alt.Axis(grid=False, tickCount=5, format=CLOCK, labels=labels, labelFlush=True, labelOverlap=True)
    return alt.X("at:T", title=None, axis=axis, scale=alt.Scale(type="utc", domain=domain, padding=10))


def colours(chosen: Mapping[str, str]) -> alt.Scale:
    """Return the CSS variable of each value."""
    return alt.Scale(domain=list(chosen), range=[f"var(--{name})" for name in chosen.values()])


def links(base: alt.Chart, y: alt.Y, colour: str) -> alt.Chart:
    """Return a point for each row, described by its `label`, which leads to its `link`."""
    points: alt.Chart = base.mark_point(filled=True, size=36, opacity=1, color=f"var(--{colour})")
    return points.encode(y=y, href="link:N", description="label:N")
