"""Plots of final accuracies: by drop, split or variant, by training time, and by the distance of the weights."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import altair as alt

from retrain.experiments.chart_style import chart_of, colour_of, dash_of, finish_chart, shape_of
from retrain.experiments.kept_runs import EndedRun
from retrain.experiments.settings import Study
from retrain.experiments.statistics import Estimate, Group, compared, estimate, fitted_at, rows

Groups = Mapping[Group, list[EndedRun]]
PERCENT = ".3~p"


def final_accuracy_plot(study: Study, by_group: Groups) -> alt.TopLevelMixin:
    """Return a chart of each method's mean final accuracy and spread in each group."""
    finals = {group: {row.method: row.final for row in rows(study, runs)} for group, runs in compared(by_group).items()}
    return _by_group_plot(study, finals, f"final accuracy on {study.stop_on}", PERCENT)


def cost_plot(study: Study, by_group: Groups) -> alt.TopLevelMixin:
    """Return a chart of the mean number of iterations of each method in each group."""
    costs: dict[Group, dict[str, Estimate]] = {}
    for group, runs in compared(by_group).items():
        for method in dict.fromkeys(one.cell.method for one in runs):
            results = (one.record.result for one in runs if one.cell.method == method)
            costs.setdefault(group, {})[method] = estimate([each.iterations if each else None for each in results])
    return _by_group_plot(study, costs, "iterations of the run", "~s")


def _by_group_plot(
    study: Study, found: Mapping[Group, Mapping[str, Estimate]], title: str, number: str
) -> alt.TopLevelMixin:
    """Return a chart of means and spreads over the field that differs between groups."""
    varied = varied_field(list(found))
    methods = [name for name in study.methods if not study.draw or name in study.draw]
    points = [
        {"group": str(getattr(group, varied)), "method": method, **value.band(study.spread)}
        for group, by_method in found.items()
        for method, value in by_method.items()
        if value.mean is not None and method in methods
    ]
    base = chart_of(points).encode(
        x=alt.X("group:N", title=varied, sort=None, axis=alt.Axis(labelAngle=0)), color=colour_of(methods)
    )
    y = alt.Y("mean:Q", title=title, axis=alt.Axis(format=number), scale=alt.Scale(zero=False))
    drawn = alt.layer(
        base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", scale=alt.Scale(zero=False)), y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash_of(methods)),
        base.mark_point(filled=True, size=50, opacity=1).encode(y=y),
    )
    return finish_chart(drawn.properties(width=560, height=340, title=study.title))


def varied_field(groups: Sequence[Group]) -> str:
    """Return the name of the field that differs between groups: drops if they differ, else split, else variant."""
    for field in ("drops", "split"):
        if len({getattr(group, field) for group in groups}) > 1:
            return field
    return "variant"


def time_plot(study: Study, by_group: Groups) -> alt.TopLevelMixin:
    """Return a chart with a point for each run that reached `Study.fitted` or `Study.fitted_accuracy`.

    Time is counted in images, because an image is the same work with every batch size and on every machine.
    """
    until = f"a training accuracy of {study.fitted_accuracy:.0%}" if study.fitted_accuracy else ""
    title = f"training images until {until or f'a training loss of {study.fitted:g}'}"
    return _scatter(study, by_group, title, "~s", lambda one: _images_until_fitted(study, one))


def correlation_plot(study: Study, by_group: Groups) -> alt.TopLevelMixin:
    """Return a chart with a point for each run: final accuracy over the correlation of final with initial weights."""
    name = "correlation of weights"
    return _scatter(
        study, by_group, "correlation of final with initial weights", ".2~f", lambda one: _figure(one, name)
    )


def _scatter(
    study: Study, by_group: Groups, title: str, number: str, x_of: Callable[[EndedRun], float | None]
) -> alt.TopLevelMixin:
    """Return a chart with a point for each run: its final accuracy. Colours show the start (random or warm).

    In a study with the plot `correlation`, each network has a panel.
    """
    points = list(_scattered(study, by_group, x_of))
    kinds = list(dict.fromkeys(point["method"] for point in points))
    scale = alt.Scale(zero=False)
    chart = (
        chart_of(points)
        .mark_point(filled=True, size=60, opacity=0.8)
        .encode(
            x=alt.X("x:Q", title=title, axis=alt.Axis(format=number), scale=scale),
            y=alt.Y("y:Q", title=f"final accuracy on {study.stop_on}", axis=alt.Axis(format=PERCENT), scale=scale),
            color=colour_of(kinds),
            shape=shape_of(kinds),
        )
        .properties(width=340, height=280)
    )
    panels = list(dict.fromkeys(point["panel"] for point in points))
    if len(panels) > 1:
        faceted = chart.facet(facet=alt.Facet("panel:N", title=None, sort=panels), columns=2)
        return finish_chart(faceted.resolve_scale(y="independent", x="independent").properties(title=study.title))
    return finish_chart(chart.properties(title=study.title))


def _scattered(study: Study, by_group: Groups, x_of: Callable[[EndedRun], float | None]) -> Iterator[dict[str, Any]]:
    seen = set[str]()
    for one in (one for runs in compared(by_group).values() for one in runs):
        x, result = x_of(one), one.record.result
        if x is None or result is None or one.record.run_id in seen:
            continue
        seen.add(one.record.run_id)  # a scratch run does not depend on a first run, so several groups contain it
        kind = "random" if study.methods[one.cell.method].start == "scratch" else "warm"
        panel = one.cell.variant.split(",")[0] if "correlation" in study.plots else ""
        yield {"x": x, "y": result.final_accuracy, "method": kind, "panel": panel}


def _figure(one: EndedRun, name: str) -> float | None:
    """Return a measure of a run that has a parent, else None. For a random start, the measure would mean nothing."""
    value = one.measures.get(name)
    return value if one.record.parent and isinstance(value, float) else None


def _images_until_fitted(study: Study, one: EndedRun) -> float | None:
    """Return the number of images a run had trained on when it was fitted, or None if it never was."""
    iterations, result = fitted_at(one.curve, study.fitted, study.fitted_accuracy), one.record.result
    return iterations * result.cost.samples / result.cost.iterations if iterations and result else None


def switch_plot(study: Study, by_group: Groups) -> alt.TopLevelMixin:
    """Return two charts by variant: the accuracy of first runs, and the accuracy of later runs relative to scratch."""
    firsts, changes = _first_accuracies(study, by_group), _relative_changes(study, by_group)
    panels = [
        _by_variant(firsts, f"accuracy on {study.stop_on} after the first run", PERCENT),
        _by_variant(changes, f"change against {study.against[0]}, percent of its accuracy", ".1~f"),
    ]
    return finish_chart(alt.hconcat(*panels).properties(title=study.title))


def _by_variant(points: Iterable[Mapping[str, Any]], title: str, number: str) -> Any:
    scale = alt.Scale(zero=False)
    base = chart_of(points).encode(x=alt.X("variant:N", title=None, sort=None))
    return alt.layer(
        base.mark_rule().encode(y=alt.Y("low:Q", scale=scale), y2="high:Q"),
        base.mark_line(point=True).encode(y=alt.Y("mean:Q", title=title, axis=alt.Axis(format=number), scale=scale)),
    ).properties(width=300, height=260)


def _first_accuracies(study: Study, by_group: Groups) -> Iterator[dict[str, Any]]:
    for group, runs in by_group.items():
        if group.drops == 1:
            finals = estimate([one.record.result.final_accuracy if one.record.result else None for one in runs])
            yield {"variant": group.variant, **finals.band(study.spread)}


def _relative_changes(study: Study, by_group: Groups) -> Iterator[dict[str, Any]]:
    """Yield by how many percent each method's final accuracy differs from the reference's with the same seed."""
    for group, runs in compared(by_group).items():
        finals = {
            (one.cell.method, one.cell.seed): one.record.result.final_accuracy for one in runs if one.record.result
        }
        for method in study.methods:
            pairs = [
                (finals[study.against[0], seed], accuracy)
                for (name, seed), accuracy in finals.items()
                if name == method and (study.against[0], seed) in finals
            ]
            if method != study.against[0] and pairs:
                change = estimate([100 * (own / reference - 1) for reference, own in pairs])
                yield {"variant": group.variant, **change.band(study.spread)}
