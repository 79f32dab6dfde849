"""Derive a task's events from its store. Each event has a stable id, by which a second delivery is prevented."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from retrain.config.automation import EventKind
from retrain.config.task import Task
from retrain.pipeline.trigger import spent_budget
from retrain.records import RunRecord
from retrain.store.drops import FOREIGN_REPORT
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
    task: Task, store: TaskStore, records: Sequence[RunRecord], now: datetime
) -> list[Notification]:
    """Return every event of a task, given the records of its ledger, oldest first."""
    found = [*_runs(records), *_champions(store), *_approvals(store), *_quarantined(store, now)]
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


def _approvals(store: TaskStore) -> Iterator[Notification]:
    for approval in store.approvals.unfinished():
        if approval.verdict is None:
            what = approval.describe(store.task)
            data = {"run_id": approval.run_id, "expires_at": approval.expires_at.isoformat(), "what": what}
            kind: EventKind = "candidate.awaits_approval"
            yield Notification(f"approval-{approval.run_id}", kind, approval.run_id, approval.requested_at, data)


def _quarantined(store: TaskStore, now: datetime) -> Iterator[Notification]:
    for drop, report in store.drops.quarantine_reports().items():
        at = report.found_at if report else now
        cause = report.cause if report else FOREIGN_REPORT
        yield Notification(f"quarantine-{drop}", "drop.quarantined", drop, at, {"drop": drop, "cause": cause})


def _budget(task: Task, records: Sequence[RunRecord], now: datetime) -> Iterator[Notification]:
    for spent in spent_budget(task.trigger.budget, records, now.astimezone(UTC)):
        start = f"{spent.start:%Y-%m-%d}"
        data = {"per": task.trigger.budget.per, "since": start, "until": spent.until.isoformat(), "why": spent.why}
        yield Notification(f"budget-{spent.unit}-{start}".replace(" ", "-"), "budget.spent", start, now, data)
