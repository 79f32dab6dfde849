"""Which model was in force when, and what landed and ran meanwhile."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from retrain.observe.report.sources import Sources
from retrain.records import Drop, RunRecord

REIGNS = 60
"""The newest champions that are shown, and what happened since the first of them."""
RUNS = 200


class Reign(NamedTuple):
    """A run's model in force, from its promotion to the next."""

    sequence: int
    run_id: str
    why: str
    since: datetime
    until: datetime
    accuracy: float | None
    """On the test split, when it was evaluated."""


class Timeline(NamedTuple):
    """Everything oldest first."""

    reigns: Sequence[Reign]
    drops: Sequence[Drop]
    runs: Sequence[RunRecord]


def timeline(sources: Sources) -> Timeline:
    """Return the newest champions, and the drops and runs of their time; everything if there is none yet."""
    reigns = _reigns(sources)[-REIGNS:]
    drops, runs = sources.drops, sources.records[-RUNS:]
    if len(reigns) == REIGNS:
        drops = [drop for drop in drops if drop.committed_at >= reigns[0].since]
        runs = [run for run in runs if run.ended_at >= reigns[0].since]
    return Timeline(reigns, drops[-RUNS:], runs)


def _reigns(sources: Sources) -> list[Reign]:
    if sources.champion is None:
        return []
    history = sources.champion.history
    evaluations = {record.run_id: record.evaluation for record in sources.records}
    ends = [*(entry.at for entry in history[1:]), sources.now]
    reigns = []
    for entry, until in zip(history, ends, strict=True):
        evaluation = evaluations.get(entry.run_id)
        accuracy = evaluation.accuracy if evaluation else None
        reigns.append(Reign(entry.sequence, entry.run_id, entry.why, entry.at, until, accuracy))
    return reigns
