"""The page's charts of savings, races and learning speeds."""

from collections.abc import Mapping, Sequence

import altair as alt

from retrain.observe.report.canvas import Chart, Row, colours, links, milliseconds, table, time_axis
from retrain.observe.report.figures import Step
from retrain.observe.report.races import Race
from retrain.observe.report.speeds import Bar

PERCENT = alt.Axis(format=".0%", tickCount=5)
COUNT = alt.Axis(
    labelExpr="abs(datum.value) < 10000 ? format(datum.value, ',') : format(datum.value, '~s')", tickCount=5
)
TENTHS = alt.Axis(grid=False, format=".1f", tickCount=6)


def spent(steps: Sequence[Step]) -> Chart:
    """Iterations so far: what always training from scratch would have taken, and what was spent, all in."""
    base = table(_rows(steps)).encode(x=time_axis())
    gain, loss = _gap(base, "higher", "net"), _gap(base, "lower", "bad")
    lines = _lines(steps, {"always from scratch": ("baseline", "scratch"), "spent, all in": ("used_all_in", "ours")})
    dots = links(base, alt.Y("used_all_in:Q"), "ours")
    return alt.layer(gain, loss, lines, dots)


def saved(steps: Sequence[Step]) -> Chart:
    """Iterations saved so far, gross and net; below zero is a loss."""
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
    """Return the area between what was spent and this edge: nothing where they are the same."""
    area: alt.Chart = base.mark_area(interpolate="step-after", color=f"var(--{colour})", opacity=0.14, aria=False)
    return area.encode(y=f"{edge}:Q", y2="used_all_in:Q")


def _lines(steps: Sequence[Step], series: Mapping[str, tuple[str, str]]) -> alt.Chart:
    """Return two step lines, the first dashed, each a name with its figure of the savings and its colour."""
    rows = [
        {"at": milliseconds(step.at), "iterations": getattr(step.savings, figure), "series": name}
        for step in steps
        for name, (figure, _) in series.items()
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
    """Two lines differ by more than their colour."""
    return alt.Scale(domain=names, range=[[6, 4], [1, 0]])


def race(shown: Race) -> Chart:
    """A run's accuracy against its baseline's, the target, and where each came to 99 and 100 percent."""
    points = [
        {"iteration": point.iteration, "accuracy": point.accuracy, "runner": runner}
        for runner, curve in shown.curves.items()
        for point in curve.points
    ]
    dash = alt.StrokeDash("runner:N", scale=_first_dashed(["scratch", "this run"]), legend=None)
    lines = _raced(table(points).mark_line(strokeWidth=2, aria=False)).encode(strokeDash=dash)
    return alt.layer(_target(shown.target), lines, *_crossings(shown))


def _raced(base: alt.Chart) -> alt.Chart:
    """Put a runner's accuracy over its iterations."""
    return base.encode(
        x=alt.X("iteration:Q", title="iterations", axis=alt.Axis(grid=False, format="~s", tickCount=5)),
        y=alt.Y("accuracy:Q", title=None, axis=PERCENT, scale=alt.Scale(zero=False)),
        color=alt.Color("runner:N", scale=colours({"scratch": "scratch", "this run": "ours"}), legend=None),
    )


def _target(accuracy: float) -> alt.Chart:
    row = {"accuracy": accuracy, "label": f"target {accuracy:.2%}"}
    rule: alt.Chart = table([row]).mark_rule(color="var(--target)", strokeWidth=1.5, strokeDash=[2, 3])
    return rule.encode(y="accuracy:Q", description="label:N")


def _crossings(shown: Race) -> Sequence[alt.Chart]:
    """Hollow diamonds where each came to 99 percent, dots where it came to 100: both can be seen in one place."""
    rows = [
        {**crossing._asdict(), "label": f"{crossing.runner} at {crossing.level}%: iteration {crossing.iteration}"}
        for crossing in shown.crossings
    ]
    diamonds: alt.Chart = table([row for row in rows if row["level"] == "99"]).mark_point(
        shape="diamond", size=150, strokeWidth=2, fill="var(--surface)", opacity=1
    )
    dots: alt.Chart = table([row for row in rows if row["level"] == "100"]).mark_point(filled=True, size=50, opacity=1)
    return [_raced(points).encode(description="label:N") for points in (diamonds, dots)]


def speeds(bars: Sequence[Bar]) -> Chart:
    """How many samples have which learning speed."""
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
