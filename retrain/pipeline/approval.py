"""What a run's approval asks for: whether it waits, and what its verdict means to the gate. Read without torch."""

from datetime import datetime

from retrain.errors import RunError
from retrain.pipeline.accounting import make_record
from retrain.records import Approval, Decision, Plan, RunRecord, Verdict
from retrain.records.ledger import PromotionReason
from retrain.store.champions import Author, ChampionSnapshot
from retrain.store.task_store import TaskStore
from retrain.utils.clock import parse_duration


def request_approval(store: TaskStore, plan: Plan, now: datetime) -> Verdict | None:
    """Return the verdict on a candidate that passed the gate; None while it waits for one."""
    timeout = parse_duration(plan.task.gate.approval_timeout)
    approval = store.approvals.request(Approval.requested(plan.run_id, now, timeout))
    return store.approvals.expire(approval, now).verdict


def find_approval(store: TaskStore, plan: Plan, now: datetime) -> Approval | None:
    """Return the approval of a run that has no decision yet, with its verdict if there is one by now; or None.

    A run that a person promoted while it waited has its decision.
    """
    if plan.task.gate.approval == "automatic" or store.run(plan.run_id).decision():
        return None
    approval = store.approvals.find(plan.run_id)
    return approval and store.approvals.expire(approval, now)


def is_waiting(approval: Approval | None) -> bool:
    """Return whether a run waits for its verdict."""
    return approval is not None and approval.verdict is None


def read_candidate(store: TaskStore, run_id: str) -> RunRecord | None:
    """Return what the record of a candidate that awaits approval would be if it were refused now; None for others."""
    approval = store.approvals.find(run_id)
    if approval is None or approval.verdict:
        return None
    files = store.run(run_id)
    return make_record(files.plan(), files.result(), files.evaluation(), None, None)


def refusal(verdict: Verdict | None) -> Decision | None:
    """Return the decision that a verdict makes by itself; None where it approves, or has not come."""
    if verdict is None or verdict.kind == "approved":
        return None
    return Decision(promoted=False, reasons=(str(verdict),))


def promote_by_hand(
    store: TaskStore, seen: ChampionSnapshot, run_id: str, why: PromotionReason, author: Author
) -> None:
    """Put a run in force because a person says so.

    Raises `RunError` if another champion came first, and if `retrain gc` is just removing the run's model: it marks
    the run before it looks for the champion, and this looks for the mark after the swap.
    """
    store.champion.promote_manually(seen, run_id, why, author)
    if store.run(run_id).removed() is None:
        return
    if seen.run_id:
        now = store.champion.read()
        store.champion.swap(now, seen.run_id, "rolled back" if why != "rolled back" else "promoted by hand")
    raise RunError(f"the model of {run_id} was removed by `retrain gc`; {seen.run_id or 'no model'} stays in force")
