"""Render the report, and the page of `retrain data review`, as HTML that needs no network."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from retrain import __version__
from retrain.data.sample_keys import readable_key
from retrain.monitoring.report import charts, mistakes, timeline
from retrain.monitoring.report.charts import Chart, svg
from retrain.monitoring.report.figures import FILTERS, cumulative, headline, thin
from retrain.monitoring.report.learning_speed import Index, speed_bars, speed_groups
from retrain.monitoring.report.sources import ReportData
from retrain.monitoring.report.speed_ups import compare_with_baselines
from retrain.monitoring.report.timeline import make_timeline
from retrain.monitoring.web import content_policy, style_sheet
from retrain.records import ErrorAnalysis, RunRecord

if TYPE_CHECKING:
    from retrain.pipeline.review import Review  # imports torch

STEPS = 60
"""Largest number of points of a cumulative chart."""
LISTED = 2000
"""Largest number of runs in the table. Only the newest runs are listed. The totals include all runs."""
IN_A_PART = 50
"""Runs in one part of the table. All parts but the first are collapsed."""
HALF, WHOLE, NARROW = 536, 1080, 344
"""Widths in pixels: of each of two charts side by side, of a chart that has a row for itself, and of a chart on a
phone."""
REVIEWED = 200
"""Largest number of near-duplicates, and of odd images, on the page of `retrain data review`."""


class Drawing(NamedTuple):
    """One chart in two widths. The browser shows the width that fits the window."""

    wide: Markup
    narrow: Markup


def render_page(sources: ReportData) -> str:
    """Return the page as HTML, without scripts and without requests to other addresses."""
    return (
        make_environment()
        .get_template("report.html")
        .render(
            sources=sources,
            headline=headline(sources.records),
            comparisons=[
                (one, svg(charts.comparison_chart(one), NARROW, 230))
                for one in compare_with_baselines(sources.records, sources.curves)
            ],
            parts=_parts(sources.records),
            **_savings(sources.records),
            **_timeline(sources),
            **_speeds(sources.index),
            **_mistakes(sources.errors),
        )
    )


def _savings(records: Sequence[RunRecord]) -> dict[str, Any]:
    steps = thin(cumulative(records), STEPS)
    return {
        "spent": _draw(charts.spent_chart(steps), HALF, 280) if steps else None,
        "saved": _draw(charts.saved_chart(steps), HALF, 280) if steps else None,
    }


def _timeline(sources: ReportData) -> dict[str, Any]:
    passed = make_timeline(sources)
    return {
        "passed": passed,
        "champions": _draw(timeline.champion_chart(passed), WHOLE, 170) if passed.periods else None,
        "events": _draw(timeline.event_chart(passed), WHOLE, 150) if passed.drops or passed.runs else None,
    }


def _speeds(index: Index | None) -> dict[str, Any]:
    if index is None:
        return {"speeds": None}
    return {
        "speeds": _draw(charts.speeds_chart(speed_bars(index)), HALF, 280),
        "groups": {name: len(members) for name, members in speed_groups(index).items()},
    }


def _mistakes(errors: ErrorAnalysis | None) -> dict[str, Any]:
    if errors is None:
        return {}
    height = 110 + 18 * len(mistakes.matrix_classes(errors))
    return {
        "matrix": _draw(mistakes.matrix_chart(errors), HALF, height),
        "matrix_limit": mistakes.MATRIX,
        "worst": mistakes.worst_classes(errors),
    }


def _draw(chart: Chart, width: int, height: int) -> Drawing:
    return Drawing(svg(chart, width, height), svg(chart, NARROW, height))


def _parts(records: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Return the newest records, newest first, split into the parts of the table."""
    listed = list(reversed(records[-LISTED:]))
    return [listed[start : start + IN_A_PART] for start in range(0, len(listed), IN_A_PART)]


@cache
def make_environment() -> Environment:
    """Return the Jinja environment of the templates, with filters that format numbers and values for every page."""
    environment = Environment(
        loader=PackageLoader("retrain.monitoring.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {**FILTERS, "readable_key": readable_key}
    environment.globals |= {
        "version": __version__,
        "style": Markup(style_sheet()),
        "content_policy": content_policy(),
    }
    return environment


def render_review(task: str, review: "Review") -> str:
    """Return the page of `retrain data review` as HTML, without scripts and without requests to other addresses."""
    return make_environment().get_template("review.html").render(task=task, review=review, listed=REVIEWED)
