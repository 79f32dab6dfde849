"""What each method ended with, over whatever a study varies: drops that have landed, splits, or variants."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt

from retrain.study.kept import Ran
from retrain.study.look import colour_of, dash_of, finished
from retrain.study.settings import Study
from retrain.study.table import Group, rows


def final(study: Study, by_group: Mapping[Group, Sequence[Ran]]) -> alt.TopLevelMixin:
    """Return the mean final accuracy of each method in each group, and one standard error to either side."""
    varied = varies(list(by_group))
    methods = [name for name in study.methods if not study.draw or name in study.draw]
    points = [point for point in _points(study, by_group, varied) if point["method"] in methods]
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
    return finished(drawn.properties(width=560, height=340, title=study.title))


def varies(groups: Sequence[Group]) -> str:
    """Return what differs between groups: drops if that does, else split if that does, else variant."""
    for field in ("drops", "split"):
        if len({getattr(group, field) for group in groups}) > 1:
            return field
    return "variant"


def _points(study: Study, by_group: Mapping[Group, Sequence[Ran]], varied: str) -> Iterator[dict[str, Any]]:
    for group, members in by_group.items():
        for row in rows(study, members):
            if row.final.mean is not None:
                error = row.final.error or 0.0
                mean = row.final.mean
                place = {"group": str(getattr(group, varied)), "method": row.method}
                yield {**place, "mean": mean, "low": mean - error, "high": mean + error}
