"""Derive a task's events from its store. The stable id of an event shows whether the event was already delivered."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from retrain.config.automation import EventKind
from retrain.config.task import Task
from retrain.pipeline.trigger import period_of, spent_budget
from retrain.records import Approval, RunRecord
from retrain.store.drops import FOREIGN_REPORT, Quarantine
from retrain.store.task_store import TaskStore


class Notification(NamedTuple):
    """One event of a task."""

    id: str
    """Every process derives the same id from the same store."""
    kind: EventKind
    subject: str
    at: datetime
    data: dict[str, Any]


def collect_notifications(
    task: Task,
    store: TaskStore,
    records: Sequence[RunRecord],
    approvals: Sequence[Approval],
    quarantined: Mapping[str, Quarantine | None],
    now: datetime,
) -> list[Notification]:
    """Return every event of a task, oldest first.

    The caller passes the records of its ledger, all its approvals, and its drops in quarantine with their reports.

    Events whose cause is over, such as an approval with a verdict, are included, because an endpoint may not have
    received them yet.
    """
    found = [*_runs(records), *_champions(store), *_approvals(store, approvals, now), *_quarantined(quarantined, now)]
    found += _budget(task, records, now)
    return sorted(found, key=lambda event: (event.at, event.id))


def _runs(records: Sequence[RunRecord]) -> Iterator[Notification]:
    for record in records:
        data = {
            "run_id": record.run_id,
            "method": record.method,
            "purpose": record.purpose,
            "ending": record.ending,
            "accuracy": record.evaluation.accuracy if record.evaluation else None,
            "metric": record.metric,
            "score": record.evaluation.score if record.evaluation else None,
            "saved_iterations": record.savings.gross if record.savings else None,
            "error": record.error,
            "reasons": record.decision.reasons if record.decision else (),
        }
        yield Notification(f"run-{record.run_id}", "run.ended", record.run_id, record.ended_at, data)


def _champions(store: TaskStore) -> Iterator[Notification]:
    champion = store.champion.read().champion
    for entry in champion.history if champion else ():
        kind: EventKind = "champion.rolled_back" if entry.why == "rolled back" else "champion.promoted"
        data = entry.model_dump(mode="json", exclude={"at"})
        yield Notification(f"champion-{entry.sequence}", kind, entry.run_id, entry.at, data)


def _approvals(store: TaskStore, approvals: Sequence[Approval], now: datetime) -> Iterator[Notification]:
    for approval in approvals:
        verdict = approval.verdict_at(now)
        what = f"{approval.run_id} passed the gate; {verdict}" if verdict else approval.describe(store.task, now)
        data = {
            "run_id": approval.run_id,
            "expires_at": approval.expires_at.isoformat(),
            "what": what,
            "verdict": verdict.kind if verdict else None,
        }
        kind: EventKind = "candidate.awaits_approval"
        yield Notification(f"approval-{approval.run_id}", kind, approval.run_id, approval.requested_at, data)


def _quarantined(reports: Mapping[str, Quarantine | None], now: datetime) -> Iterator[Notification]:
    for drop, report in reports.items():
        at = report.found_at if report else now
        cause = report.cause if report else FOREIGN_REPORT
        # A drop whose report was deleted may be quarantined again, and this is another event.
        event_id = f"quarantine-{drop}-{at:%Y%m%dT%H%M%S%f}" if report else f"quarantine-{drop}"
        yield Notification(event_id, "drop.quarantined", drop, at, {"drop": drop, "cause": cause})


def _budget(task: Task, records: Sequence[RunRecord], now: datetime) -> Iterator[Notification]:
    """Yield an event for each limit that was reached in this period or in the previous one.

    The events of the previous period may not have been sent yet.
    """
    budget, now = task.trigger.budget, now.astimezone(UTC)
    previous = period_of(budget, now)[0] - timedelta(microseconds=1)
    for moment in (previous, now):
        for spent in spent_budget(budget, records, moment):
            start = f"{spent.start:%Y-%m-%d}"
            why = f"{spent.why} in the {budget.per} that began on {start}"
            data = {"per": budget.per, "since": start, "until": spent.until.isoformat(), "why": why}
            event_id = f"budget-{spent.unit}-{start}".replace(" ", "-")
            yield Notification(event_id, "budget.spent", start, spent.at, data)
