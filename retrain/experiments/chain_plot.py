"""Plot accuracy on the whole test set over all iterations so far, drop after drop (Verwimp et al., figure 6).

A chain is a method's sequence of runs, one for each drop. Each run continues from the previous run.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import altair as alt

from retrain.experiments.chart_style import chart_of, colour_of, dash_of, finish_chart
from retrain.experiments.grid import FIRST
from retrain.experiments.kept_runs import EndedRun
from retrain.experiments.settings import Study
from retrain.experiments.statistics import Group, compared, estimate, final_of, reached_at


class Leg(NamedTuple):
    """One run of a chain."""

    run: EndedRun
    start: int
    """Iterations of the chain before this run."""
    share: float
    """Share of the test set whose classes are in the drops so far. All other test images count as wrong."""


def chain_plot(study: Study, by_group: Mapping[Group, list[EndedRun]]) -> alt.TopLevelMixin:
    """Return a chart of each chain's accuracy on the whole test set.

    The chart also shows the accuracy of a model without errors on the classes so far, and a dot where a run reached
    scratch's final accuracy (L_100).
    """
    methods = [name for name in study.methods if name != study.against[0]]
    legs = [(method, leg) for method in methods for leg in _legs(study, by_group, method)]
    x = alt.X("iteration:Q", title="total iterations", axis=alt.Axis(format="~s", grid=False))
    y = alt.Y("mean:Q", title="accuracy on the whole test set (dots: L_100)", axis=alt.Axis(format=".2~p"))
    lines = chart_of(_means(legs)).encode(x=x, color=colour_of(methods))
    bounds = chart_of(_bounds(legs))
    dots = chart_of(_crossings(study, by_group, legs))
    drawn = alt.layer(
        bounds.mark_area(color="#dddddd", interpolate="step-after").encode(x=x, y=y),
        lines.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash_of(methods)),
        dots.mark_point(filled=True, size=60, opacity=1, stroke="white").encode(x=x, y=y, color=colour_of(methods)),
    )
    return finish_chart(drawn.properties(width=620, height=340, title=study.title))


def _legs(study: Study, by_group: Mapping[Group, list[EndedRun]], method: str) -> Iterator[Leg]:
    """Yield a method's runs, seed by seed and drop by drop."""
    for seed in study.seeds:
        own = (FIRST, method)
        chain = [one for runs in by_group.values() for one in runs if one.cell.seed == seed and one.cell.method in own]
        chain.sort(key=lambda one: one.cell.drops)
        whole, start = max((_test_images(one) for one in chain), default=1), 0
        for one in chain:
            yield Leg(one, start, _test_images(one) / whole)
            start += one.curve.points[-1].iteration


def _test_images(one: EndedRun) -> int:
    return max((point.images for point in one.curve.points), default=0)


def _means(legs: list[tuple[str, Leg]]) -> Iterator[dict[str, Any]]:
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for method, leg in legs:
        for point in leg.run.curve.points:
            found[method, leg.start + point.iteration].append(point.accuracy * leg.share)
    for (method, iteration), accuracies in found.items():
        yield {"method": method, "iteration": iteration, "mean": estimate(accuracies).mean}


def _bounds(legs: list[tuple[str, Leg]]) -> Iterator[dict[str, Any]]:
    """Yield the accuracy of a model without errors on the classes so far, along the longest chain."""
    if not legs:
        return
    longest = max(legs, key=lambda each: each[1].start)
    own = [leg for method, leg in legs if method == longest[0] and leg.run.cell.seed == longest[1].run.cell.seed]
    for leg in own:
        yield {"iteration": leg.start, "mean": leg.share}
    yield {"iteration": own[-1].start + own[-1].run.curve.points[-1].iteration, "mean": own[-1].share}


def _crossings(
    study: Study, by_group: Mapping[Group, list[EndedRun]], legs: list[tuple[str, Leg]]
) -> Iterator[dict[str, Any]]:
    """Yield the point at which each run reached scratch's final accuracy on the same drops."""
    targets = {
        (one.cell.drops, one.cell.seed): final_of(one)
        for runs in compared(by_group).values()
        for one in runs
        if one.cell.method == study.against[0]
    }
    for method, leg in legs:
        target = targets.get((leg.run.cell.drops, leg.run.cell.seed))
        at = reached_at(leg.run.curve, target) if target is not None else None
        if target is not None and at is not None:
            yield {"method": method, "iteration": leg.start + at, "mean": target * leg.share}
