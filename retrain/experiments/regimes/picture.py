"""Draw the suite's picture: speed-up and test accuracy of the default in every regime."""

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from retrain.experiments.chart_style import WIDE_PADDING, chart_of, colour_of, finish_chart
from retrain.experiments.regimes.goals import GAP, RegimeResult
from retrain.experiments.regimes.methods import AVERAGED, DEFAULT_TO_AVERAGED, DEFAULT_TO_PLAIN, NAIVE, PAPER, PLAIN

DRAWN = {
    "default, against plain scratch": (DEFAULT_TO_PLAIN, PLAIN),
    "naive preset, against plain scratch": (NAIVE, PLAIN),
    "paper preset, against plain scratch": (PAPER, PLAIN),
    "default, against scratch with averaging": (DEFAULT_TO_AVERAGED, AVERAGED),
}


def draw_regimes(results: Sequence[RegimeResult]) -> alt.TopLevelMixin:
    """Return the picture: L_100 of each method on the left, test accuracy minus scratch's on the right."""
    order = [regime.title for regime, _ in results]
    y = alt.Y("regime:N", sort=order, title=None, axis=alt.Axis(labelLimit=0, grid=True, ticks=False, domain=False))
    x = alt.X(
        "speed_up:Q",
        title="L_100: times sooner than scratch (1: no saving)",
        scale=alt.Scale(type="log", nice=False, padding=12),
        axis=alt.Axis(values=[0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32], format="~g"),
    )
    colour = colour_of(list(DRAWN)).legend(
        orient="top", columns=2, columnPadding=40, symbolType="circle", symbolSize=80
    )
    points = chart_of(_speed_ups(results))
    height = 28 * len(order)
    left = alt.layer(
        chart_of([{"speed_up": 1}]).mark_rule(color="#777777").encode(x=x),
        points.mark_point(filled=True, size=55, opacity=1).encode(
            x=x, y=y, yOffset=alt.YOffset("method:N", sort=list(DRAWN)), color=colour
        ),
    ).properties(width=360, height=height)
    gaps = chart_of(_gaps(results))
    gap = alt.X("gap:Q", title="test accuracy minus plain scratch's, in points")
    hidden = alt.Y(
        "regime:N",
        sort=order,
        scale=alt.Scale(type="band"),
        title=None,
        axis=alt.Axis(labels=False, ticks=False, grid=True, domain=False),
    )
    right = alt.layer(
        chart_of([{"gap": -100 * GAP}]).mark_rule(color="#777777", strokeDash=[3, 3]).encode(x=gap),
        gaps.mark_rule(strokeWidth=1.5).encode(x=alt.X("low:Q"), x2="high:Q", y=hidden),
        gaps.mark_point(filled=True, size=70, opacity=1, color="#000000").encode(x=gap, y=hidden),
    ).properties(width=240, height=height)
    drawn: alt.TopLevelMixin = finish_chart(
        alt.hconcat(left, right, spacing=12, padding=WIDE_PADDING)
    ).configure_legend(labelLimit=0, symbolStrokeWidth=0, symbolOpacity=1)
    return drawn


def _speed_ups(results: Sequence[RegimeResult]) -> Iterator[dict[str, Any]]:
    for regime, found in results:
        for label, (method, baseline) in DRAWN.items():
            if speed_up := found.speed_up(method, baseline):
                yield {"regime": regime.title, "method": label, "speed_up": speed_up}


def _gaps(results: Sequence[RegimeResult]) -> Iterator[dict[str, Any]]:
    for regime, found in results:
        gap = found.mean(lambda each: 100 * (each.test - each.test_scratch))
        error = gap.error or 0.0
        yield {"regime": regime.title, "gap": gap.mean, "low": gap.mean - error, "high": gap.mean + error}
