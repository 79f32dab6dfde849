"""A map of old samples: when they were learnt in the run before, and when in this one (Verwimp et al., appendix)."""

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from retrain.study.kept import MAP, Ran
from retrain.study.look import finished
from retrain.study.table import Group


def speeds(group: Group, members: Sequence[Ran]) -> alt.TopLevelMixin:
    """Return a map for each method: the share of old samples by learning speed, the mean over seeds."""
    percent = alt.Axis(format=".0%", grid=False, values=[0, 0.5, 1])
    chart = (
        alt.Chart(alt.InlineData(values=list(_squares(members))))
        .mark_rect()
        .encode(
            x=alt.X("after:Q", title="learning speed in this run", axis=percent),
            x2="after_end:Q",
            y=alt.Y("before:Q", title="in the run before", axis=percent),
            y2="before_end:Q",
            color=alt.Color("share:Q", title="of old samples", scale=alt.Scale(scheme="viridis", type="sqrt")),
        )
        .properties(width=150, height=150)
        .facet(facet=alt.Facet("method:N", title=None, sort=None), columns=4)
        .properties(title=f"{group.split}, {group.variant}")
    )
    return finished(chart)


def _squares(members: Sequence[Ran]) -> Iterator[dict[str, Any]]:
    for method in dict.fromkeys(one.cell.method for one in members):
        maps = [one.measures[MAP] for one in members if one.cell.method == method and MAP in one.measures]
        rows = [each for each in maps if isinstance(each, list)]
        for row, column in _places(rows):
            share = sum(each[row][column] for each in rows) / len(rows)
            bins = len(rows[0])
            before = {"before": row / bins, "before_end": (row + 1) / bins}
            after = {"after": column / bins, "after_end": (column + 1) / bins}
            yield {"method": method, "share": share, **before, **after}


def _places(maps: Sequence[list[list[float]]]) -> Iterator[tuple[int, int]]:
    bins = range(len(maps[0]) if maps else 0)
    return ((row, column) for row in bins for column in bins)
