"""A study's pictures: learning curves with error bands, and where each method came to be as good as scratch."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from retrain.study.kept import Ran
from retrain.study.settings import Study
from retrain.study.table import Group, estimate, reached_at

COLOURS = ["#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f", "#6a3d9a"]
"""Okabe and Ito's, told apart by those who do not see all colours, and three more."""


def picture_name(group: Group) -> str:
    """Return the name of a group's picture, without suffix."""
    return re.sub(r"[^a-z0-9]+", "-", f"curves-{group.split}-{group.variant}-{group.drops}".lower()).strip("-")


def write(study: Study, by_group: Mapping[Group, Sequence[Ran]], folder: Path) -> None:
    """Write each group's picture as SVG and PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for group, members in by_group.items():
        drawn = [one for one in members if not study.draw or one.cell.method in study.draw]
        chart = curves(study, group, drawn, members).to_json()
        (folder / f"{picture_name(group)}.svg").write_text(vl_convert.vegalite_to_svg(chart), encoding="utf-8")
        (folder / f"{picture_name(group)}.png").write_bytes(vl_convert.vegalite_to_png(chart, scale=2))


def curves(study: Study, group: Group, drawn: Sequence[Ran], members: Sequence[Ran]) -> alt.LayerChart:
    """Return a group's learning curves: mean, a band of one standard error, and the crossings of L_100."""
    methods = [name for name in study.methods if any(one.cell.method == name for one in drawn)]
    colour = alt.Color("method:N", title=None, scale=alt.Scale(domain=methods, range=COLOURS[: len(methods)]))
    x = alt.X("iteration:Q", title="iterations", axis=alt.Axis(format="~s", grid=False))
    y = alt.Y(
        "accuracy:Q", title=f"accuracy on {study.stop_on}", axis=alt.Axis(format=".0%"), scale=alt.Scale(zero=False)
    )
    base = _table(_means(drawn)).encode(x=x, color=colour)
    band = base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q"), y2="high:Q")
    crossings = _table(_crossings(study, drawn, members)).encode(x=x, y=y, color=colour)
    points = crossings.mark_point(filled=True, size=70, opacity=1, stroke="white")
    chart: alt.LayerChart = (
        alt.layer(band, base.mark_line(strokeWidth=2).encode(y=y), points)
        .properties(width=560, height=340, title=f"{group.split}, {group.variant} (dots: L_100)")
        .configure(background="white", font="sans-serif", padding=8)
        .configure_view(stroke=None)
        .configure_legend(orient="right", labelLimit=0, symbolStrokeWidth=3)
    )
    return chart


def _table(rows: Iterable[Mapping[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=list(rows)))


def _means(ran: Sequence[Ran]) -> Iterator[dict[str, Any]]:
    """Mean and band at every evaluation: seeds are evaluated on one grid."""
    at: dict[tuple[str, int], list[float | None]] = defaultdict(list)
    for one in ran:
        for point in one.curve.points:
            at[one.cell.method, point.iteration].append(point.accuracy)
    for (method, iteration), values in at.items():
        mean, error, _, _ = estimate(values)
        assert mean is not None  # there is a point at every key
        band = {"low": mean - (error or 0), "high": mean + (error or 0)}
        yield {"method": method, "iteration": iteration, "accuracy": mean, **band}


def _crossings(study: Study, drawn: Sequence[Ran], members: Sequence[Ran]) -> Iterator[dict[str, Any]]:
    """Where each method came, on average, to what scratch ended with; only if it did with every seed."""
    bars = {one.cell.seed: one.curve.points[-1].accuracy for one in members if one.cell.method == study.against[0]}
    reached: dict[str, list[float | None]] = defaultdict(list)
    for one in drawn:
        if one.cell.seed in bars:
            reached[one.cell.method].append(reached_at(one.curve, bars[one.cell.seed]))
    for method, iterations in reached.items():
        mean, _, n, of = estimate(iterations)
        if mean is not None and n == of:
            yield {"method": method, "iteration": mean, "accuracy": estimate(list(bars.values())).mean}
