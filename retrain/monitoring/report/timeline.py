"""The timeline of drops, runs and champions, and its charts."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import altair as alt

from retrain.config import METRIC_NAMES, Metric
from retrain.monitoring.report.charts import Chart, Row, colours, links, milliseconds, table, time_axis
from retrain.monitoring.report.sources import ReportData
from retrain.records import Drop, RunRecord

PERIODS = 60
"""Largest number of champions in the timeline. Older champions are left out."""
RUNS = 200
"""Largest number of drops, and of runs, in the timeline."""


class ChampionPeriod(NamedTuple):
    """The time of one champion, from its promotion to the next promotion."""

    sequence: int
    run_id: str
    why: str
    since: datetime
    until: datetime
    score: float | None
    """Score on the test split. None if the model was not tested."""
    metric: Metric
    author: str | None
    """The person who approved, promoted or rolled back. None if the gate decided."""
    reason: str | None


class Timeline(NamedTuple):
    """The timeline's drops, runs and champions, oldest first."""

    periods: Sequence[ChampionPeriod]
    drops: Sequence[Drop]
    runs: Sequence[RunRecord]


def make_timeline(sources: ReportData) -> Timeline:
    """Return the newest champions, with the newest drops and runs.

    If there are more champions than `PERIODS`, return only the drops and runs since the oldest of these champions.
    """
    periods = _periods(sources)[-PERIODS:]
    drops, runs = sources.drops, sources.records[-RUNS:]
    if len(periods) == PERIODS:
        drops = [drop for drop in drops if drop.committed_at >= periods[0].since]
        runs = [run for run in runs if run.ended_at >= periods[0].since]
    return Timeline(periods, drops[-RUNS:], runs)


def _periods(sources: ReportData) -> list[ChampionPeriod]:
    if sources.champion is None:
        return []
    history = sources.champion.history
    evaluations = {record.run_id: record.evaluation for record in sources.records}
    ends = [*(entry.at for entry in history[1:]), sources.now]
    periods = []
    for entry, until in zip(history, ends, strict=True):
        evaluation = evaluations.get(entry.run_id)
        periods.append(
            ChampionPeriod(
                sequence=entry.sequence,
                run_id=entry.run_id,
                why=entry.why,
                since=entry.at,
                until=until,
                score=evaluation.score if evaluation else None,
                metric=evaluation.metric if evaluation else "accuracy",
                author=entry.author,
                reason=entry.reason,
            )
        )
    return periods


MARGIN = 56
"""Width of the y axis, in pixels. Both charts have this width, so their time axes are aligned."""
OUTCOMES = {
    "reached": ("circle", "primary"),
    "completed": ("square", "scratch"),
    "plateau": ("diamond", "bad"),
    "missed": ("triangle-up", "bad"),
    "diverged": ("cross", "bad"),
    "failed": ("cross", "bad"),
}
"""Shape and colour of a run by outcome."""


def champion_chart(shown: Timeline) -> Chart:
    """Return a chart of the champions' scores on the test split."""
    axis = alt.Axis(format=".1%", tickCount=4, minExtent=MARGIN, maxExtent=MARGIN)
    y = alt.Y("score:Q", title=None, axis=axis, scale=alt.Scale(zero=False, padding=10))
    base = table(_period_rows(shown)).encode(x=time_axis(_span(shown), labels=False))
    periods: alt.Chart = base.mark_rule(color="var(--primary)", strokeWidth=3, aria=False)
    return alt.layer(periods.encode(x2="until:Q", y=y), links(base, y, "primary"))


def event_chart(shown: Timeline) -> Chart:
    """Return a chart of the times at which drops were committed and runs ended."""
    axis = alt.Axis(grid=True, minExtent=MARGIN, maxExtent=MARGIN)
    lane = alt.Y("lane:N", title=None, axis=axis, scale=alt.Scale(domain=["drops", "runs"]))
    landed: alt.Chart = table(_drop_rows(shown)).mark_tick(thickness=3, height=20, color="var(--net)")
    ended: alt.Chart = table(_run_rows(shown)).mark_point(filled=True, size=80, opacity=1)
    place: dict[str, Any] = {"x": time_axis(_span(shown)), "y": lane, "description": "label:N"}
    return alt.layer(landed.encode(**place), _by_outcome(ended, shown).encode(**place, href="link:N"))


def _by_outcome(runs: alt.Chart, shown: Timeline) -> alt.Chart:
    """Show each outcome by a shape and a colour. The legend has only the outcomes that occurred."""
    seen = {run.outcome: OUTCOMES[run.outcome] for run in shown.runs}
    shapes = alt.Scale(domain=list(seen), range=[shape for shape, _ in seen.values()])
    tints = colours({outcome: colour for outcome, (_, colour) in seen.items()})
    return runs.encode(shape=alt.Shape("outcome:N", scale=shapes), color=alt.Color("outcome:N", scale=tints))


def _period_rows(shown: Timeline) -> list[Row]:
    return [
        {
            "at": milliseconds(period.since),
            "until": milliseconds(period.until),
            "score": period.score,
            "link": f"#{period.run_id}",
            "label": f"{period.why} {period.since:%Y-%m-%d %H:%M}: {period.run_id}, "
            f"{METRIC_NAMES[period.metric]} {period.score:.2%} on test",
        }
        for period in shown.periods
        if period.score is not None
    ]


def _drop_rows(shown: Timeline) -> list[Row]:
    return [
        {
            "at": milliseconds(drop.committed_at),
            "lane": "drops",
            "label": f"{drop.committed_at:%Y-%m-%d %H:%M}: drop {drop.id}, {drop.samples('train')} training samples",
        }
        for drop in shown.drops
    ]


def _run_rows(shown: Timeline) -> list[Row]:
    return [
        {
            "at": milliseconds(run.ended_at),
            "lane": "runs",
            "outcome": run.outcome,
            "link": f"#{run.run_id}",
            "label": f"{run.ended_at:%Y-%m-%d %H:%M}: {run.run_id} {run.outcome}",
        }
        for run in shown.runs
    ]


def _span(shown: Timeline) -> tuple[datetime, datetime] | None:
    times = [
        *(time for period in shown.periods for time in (period.since, period.until)),
        *(drop.committed_at for drop in shown.drops),
        *(run.ended_at for run in shown.runs),
    ]
    return (min(times), max(times)) if times else None
