"""The approval of a candidate: request it, find it, and turn its verdict into a decision. Imports no torch."""

from datetime import datetime
from typing import NamedTuple

from retrain.errors import RunError
from retrain.pipeline.accounting import make_record
from retrain.pipeline.gate import decide
from retrain.records import Approval, Decision, Plan, RunRecord, Verdict
from retrain.records.ledger import PromotionReason
from retrain.store.champions import Author, ChampionSnapshot
from retrain.store.task_store import TaskStore
from retrain.utils.clock import parse_duration


def request_approval(store: TaskStore, plan: Plan, now: datetime) -> Verdict | None:
    """Request approval of a candidate that passed the gate. Return the verdict, or None if there is none yet."""
    timeout = parse_duration(plan.task.gate.approval_timeout)
    approval = store.approvals.request(Approval.requested(plan.run_id, now, timeout))
    return store.approvals.expire(approval, now).verdict


def find_approval(store: TaskStore, plan: Plan, now: datetime) -> Approval | None:
    """Return the approval of a run that has no decision yet, or None. The approval may already have a verdict.

    A run that was promoted by hand while it waited has a decision.
    """
    if plan.task.gate.approval == "automatic" or store.run(plan.run_id).decision():
        return None
    approval = store.approvals.find(plan.run_id)
    return approval and store.approvals.expire(approval, now)


def is_waiting(approval: Approval | None) -> bool:
    """Return whether the run with this approval still waits for a verdict."""
    return approval is not None and approval.verdict is None


class Candidate(NamedTuple):
    """A run that awaits approval."""

    record: RunRecord
    """The record that the run would get if it were approved, but without the decision."""
    approval: Approval
    gate: Decision | None
    """Decision of the gate about the run's evaluation."""


def read_candidate(store: TaskStore, run_id: str) -> Candidate | None:
    """Return a candidate that awaits approval, or None for other runs."""
    approval = store.approvals.find(run_id)
    if approval is None or approval.verdict:
        return None
    files = store.run(run_id)
    plan, evaluation = files.plan(), files.evaluation()
    gate = decide(plan.task.gate, evaluation) if evaluation else None
    approved = make_record(plan, files.result(), evaluation, gate, None)
    return Candidate(approved.model_copy(update={"decision": None}), approval, gate)


def refusal(verdict: Verdict | None) -> Decision | None:
    """Return the decision that follows from a verdict. None if the verdict approves or is missing."""
    if verdict is None or verdict.kind == "approved":
        return None
    return Decision(promoted=False, reasons=(str(verdict),))


def promote_by_hand(
    store: TaskStore, seen: ChampionSnapshot, run_id: str, why: PromotionReason, author: Author
) -> None:
    """Promote a run at a person's request.

    Raises `RunError` if another run was promoted after `seen` was read, or if `retrain gc` is removing the run's model.
    `retrain gc` writes a marker for the run before it reads the champion, and this function reads the marker after the
    swap. Therefore `retrain gc` sees the promotion, or this function sees the marker.
    """
    store.champion.promote_manually(seen, run_id, why, author)
    if store.run(run_id).removed() is None:
        return
    if seen.run_id:
        now = store.champion.read()
        store.champion.swap(now, seen.run_id, "rolled back" if why != "rolled back" else "promoted by hand")
    raise RunError(f"the model of {run_id} was removed by `retrain gc`; {seen.run_id or 'no model'} stays the champion")
