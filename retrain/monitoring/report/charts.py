"""The charts of savings and speed-ups, as Vega-Lite specifications drawn to SVG."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup

from retrain.monitoring.report.figures import Step
from retrain.monitoring.report.learning_speed import Bar
from retrain.monitoring.report.speed_ups import BaselineComparison

Row = Mapping[str, Any]
Chart = alt.Chart | alt.LayerChart | alt.FacetChart

CLOCK = {"hours": "%H:%M", "minutes": "%H:%M"}
"""Format of times on axes: 24 hours, as on the rest of the page. Days, months and years keep their default format."""
LINK = '<a xlink:href="https://vega.github.io/vega-datasets/#'
"""Start of a link within the page, as the renderer writes it."""
OWN_LINK = '<a tabindex="-1" xlink:href="#'
"""Replacement of `LINK`: a link that the Tab key skips. Otherwise a reader would tab through hundreds of links in the
charts before the table. The table has the same links."""
LABELLED = re.compile(r'<path aria-label="([^"]*)"([^>]*)/>')
TITLED = r"<path\2><title>\1</title></path>"
"""Replacement of `LABELLED`. A title has the label's text, and browsers also show it as a tooltip."""


def svg(chart: Chart, width: int, height: int) -> Markup:
    """Draw a chart, and return it as SVG. The size is in pixels and includes the axes."""
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
    """Return a chart with these rows as its data."""
    return alt.Chart({"values": list(rows)})


def milliseconds(time: datetime) -> int:
    """Return a time in Vega's unit: milliseconds since 1970."""
    return int(time.timestamp() * 1000)


def time_axis(span: tuple[datetime, datetime] | None = None, labels: bool = True) -> alt.X:
    """Return an x axis with the column `at` as times in UTC. Charts with the same span have the same axis."""
    domain = [milliseconds(end) for end in span] if span else alt.Undefined
    axis = alt.Axis(grid=False, tickCount=5, format=CLOCK, labels=labels, labelFlush=True, labelOverlap=True)
    return alt.X("at:T", title=None, axis=axis, scale=alt.Scale(type="utc", domain=domain, padding=10))


def colours(chosen: Mapping[str, str]) -> alt.Scale:
    """Return a colour scale that maps each value to its CSS variable."""
    return alt.Scale(domain=list(chosen), range=[f"var(--{name})" for name in chosen.values()])


def links(base: alt.Chart, y: alt.Y, colour: str) -> alt.Chart:
    """Return a point for each row. The row's `label` describes the point, and its `link` is the point's hyperlink."""
    points: alt.Chart = base.mark_point(filled=True, size=36, opacity=1, color=f"var(--{colour})")
    return points.encode(y=y, href="link:N", description="label:N")


PERCENT = alt.Axis(format=".0%", tickCount=5)
COUNT = alt.Axis(
    labelExpr="abs(datum.value) < 10000 ? format(datum.value, ',') : format(datum.value, '~s')", tickCount=5
)
TENTHS = alt.Axis(grid=False, format=".1f", tickCount=6)


def spent_chart(steps: Sequence[Step]) -> Chart:
    """Return a chart of cumulative iterations: of always training from scratch, and of the actual runs."""
    base = table(_rows(steps)).encode(x=time_axis())
    gain, loss = _gap(base, "higher", "net"), _gap(base, "lower", "bad")
    lines = _lines(
        steps, {"always from scratch": ("baseline", "scratch"), "used, with evaluations": ("used_all_in", "primary")}
    )
    dots = links(base, alt.Y("used_all_in:Q"), "primary")
    return alt.layer(gain, loss, lines, dots)


def saved_chart(steps: Sequence[Step]) -> Chart:
    """Return a chart of iterations saved so far, gross and net. Below zero, scratch would have been cheaper."""
    zero = table([{"zero": 0}]).mark_rule(color="var(--muted)", aria=False).encode(y="zero:Q")
    lines = _lines(steps, {"gross": ("gross", "gross"), "net": ("net", "net")})
    base = table(_rows(steps)).encode(x=time_axis())
    return alt.layer(zero, lines, links(base, alt.Y("net:Q"), "net"))


def _rows(steps: Sequence[Step]) -> list[Row]:
    return [
        {
            **step.savings.model_dump(),
            "higher": max(step.savings.baseline, step.savings.used_all_in),
            "lower": min(step.savings.baseline, step.savings.used_all_in),
            "at": milliseconds(step.at),
            "link": f"#{step.run_id}",
            "label": f"{step.at:%Y-%m-%d %H:%M}, {step.run_id}: {step.savings.net:+,.0f} iterations saved so far, net",
        }
        for step in steps
    ]


def _gap(base: alt.Chart, edge: str, colour: str) -> alt.Chart:
    """Return the area between the iterations used and the field `edge`."""
    area: alt.Chart = base.mark_area(interpolate="step-after", color=f"var(--{colour})", opacity=0.14, aria=False)
    return area.encode(y=f"{edge}:Q", y2="used_all_in:Q")


def _lines(steps: Sequence[Step], series: Mapping[str, tuple[str, str]]) -> alt.Chart:
    """Return two step lines, the first dashed. `series` maps a line's name to a field of the savings and a colour."""
    rows = [
        {"at": milliseconds(step.at), "iterations": getattr(step.savings, field), "series": name}
        for step in steps
        for name, (field, _) in series.items()
    ]
    tints = colours({name: colour for name, (_, colour) in series.items()})
    lines: alt.Chart = table(rows).mark_line(interpolate="step-after", strokeWidth=2.5, aria=False)
    return lines.encode(
        x=time_axis(),
        y=alt.Y("iterations:Q", title=None, axis=COUNT),
        color=alt.Color("series:N", scale=tints),
        strokeDash=alt.StrokeDash("series:N", scale=_first_dashed(list(series))),
    )


def _first_dashed(names: Sequence[str]) -> alt.Scale:
    """Return a scale that dashes the first line, because the lines must differ by more than colour."""
    return alt.Scale(domain=names, range=[[6, 4], [1, 0]])


def comparison_chart(shown: BaselineComparison) -> Chart:
    """Return a chart of the target and of two scores: a run's and its baseline's.

    Symbols show where each score first reached 99 and 100 percent of the baseline's final score.
    """
    points = [
        {"iteration": point.iteration, "score": point.score, "curve": name}
        for name, curve in shown.curves.items()
        for point in curve.points
    ]
    dash = alt.StrokeDash("curve:N", scale=_first_dashed(["scratch", "this run"]), legend=None)
    lines = _score_by_iteration(table(points).mark_line(strokeWidth=2, aria=False)).encode(strokeDash=dash)
    return alt.layer(_target(shown.target), lines, *_crossings(shown))


def _score_by_iteration(base: alt.Chart) -> alt.Chart:
    """Return the chart with the iteration on x, the score on y, and a colour for each curve: run and baseline."""
    return base.encode(
        x=alt.X("iteration:Q", title="iterations", axis=alt.Axis(grid=False, format="~s", tickCount=5)),
        y=alt.Y("score:Q", title=None, axis=PERCENT, scale=alt.Scale(zero=False)),
        color=alt.Color("curve:N", scale=colours({"scratch": "scratch", "this run": "primary"}), legend=None),
    )


def _target(score: float) -> alt.Chart:
    row = {"score": score, "label": f"target {score:.2%}"}
    rule: alt.Chart = table([row]).mark_rule(color="var(--target)", strokeWidth=1.5, strokeDash=[2, 3])
    return rule.encode(y="score:Q", description="label:N")


def _crossings(shown: BaselineComparison) -> Sequence[alt.Chart]:
    """Return hollow diamonds at 99 percent and dots at 100 percent. Both are visible even at the same point."""
    rows = [
        {**crossing._asdict(), "label": f"{crossing.curve} at {crossing.level}%: iteration {crossing.iteration}"}
        for crossing in shown.crossings
    ]
    diamonds: alt.Chart = table([row for row in rows if row["level"] == "99"]).mark_point(
        shape="diamond", size=150, strokeWidth=2, fill="var(--surface)", opacity=1
    )
    dots: alt.Chart = table([row for row in rows if row["level"] == "100"]).mark_point(filled=True, size=50, opacity=1)
    return [_score_by_iteration(points).encode(description="label:N") for points in (diamonds, dots)]


def speeds_chart(bars: Sequence[Bar]) -> Chart:
    """Return a histogram of samples by learning speed."""
    rows = [
        {**bar._asdict(), "label": f"{bar.samples} {bar.group} samples from {bar.low:.2f} to {bar.high:.2f}"}
        for bar in bars
    ]
    columns: alt.Chart = table(rows).mark_bar(stroke="var(--surface)", strokeWidth=0.5)
    return columns.encode(
        x=alt.X("low:Q", bin="binned", title="learning speed", axis=TENTHS, scale=alt.Scale(domain=[0, 1])),
        x2="high:Q",
        y=alt.Y("samples:Q", title=None, axis=COUNT),
        color=alt.Color("group:N", scale=colours({"easy": "easy", "middle": "middle", "hard": "hard"})),
        description="label:N",
    )
