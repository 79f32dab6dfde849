"""The stages after the training, evaluate -> promote -> record, and the records of runs that failed.

Imports no torch, which an evaluation alone needs. A run that was evaluated in its pod is not evaluated again, so a
watcher without torch can record it, and promote it once a person has approved it.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from retrain.errors import UserError
from retrain.pipeline import next_run
from retrain.pipeline.accounting import make_record
from retrain.pipeline.approval import find_approval, is_waiting, refusal, request_approval
from retrain.pipeline.gate import decide
from retrain.records import Approval, Decision, Evaluation, Plan, RunRecord, Verdict
from retrain.store import champions
from retrain.store.base import Conflict
from retrain.store.champions import Author, ChampionSnapshot
from retrain.store.runs import RunFiles
from retrain.store.task_store import TaskStore
from retrain.utils.clock import Clock, utc_now

Ended = RunRecord | Approval
"""What a run's stages come to: its record, or the approval that it waits for."""


@dataclass(frozen=True)
class RecordContext:
    """Where runs are recorded: a task's store. `Context` can train and evaluate besides."""

    store: TaskStore
    clock: Clock = field(default=utc_now, kw_only=True)
    """Tells whether the time of an approval is up."""
    stage_seconds: defaultdict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict), kw_only=True)
    """Seconds that each stage of a run took in this process, by run id."""

    @contextmanager
    def timed(self, run_id: str, stage: str) -> Iterator[None]:
        """Add the time within to what a run's stage took."""
        started = time.monotonic()
        try:
            yield
        finally:
            taken = self.stage_seconds[run_id]
            taken[stage] = taken.get(stage, 0.0) + time.monotonic() - started

    def files(self, run_id: str) -> RunFiles:
        """Return a run's files."""
        return self.store.run(run_id)

    def measure(self, plan: Plan, champion: str | None) -> Evaluation:
        """Evaluate a run's model beside the champion. Raises `UserError` where that cannot be done."""
        raise UserError(
            f"{plan.run_id} must be compared with champion {champion}, which needs torch: `retrain run` does so where "
            "torch is installed"
        )


def finish_approval(context: RecordContext, run_id: str) -> Ended:
    """Promote and record a candidate that has its verdict, or whose time is up; return the approval while it waits."""
    plan = context.files(run_id).plan()
    promote(context, plan)
    return record(context, plan)


def evaluate(context: RecordContext, plan: Plan) -> Evaluation | None:
    """Evaluate a run's model on the test split, against the champion in force; None if it left no model.

    Once the gate has decided, the evaluation that it decided on stays: of a promotion, that against the one before.
    """
    files = context.files(plan.run_id)
    result = files.result()
    if result is None or result.model_digest is None:
        return None
    seen, found, decision = context.store.champion.read(), files.evaluation(), files.decision()
    opponent, refused = champions.compared_champion(seen, plan.run_id), decision is not None and not decision.promoted
    if found and (refused or _compared_with(found) == opponent):
        return found
    with context.timed(plan.run_id, "evaluate"):
        evaluation = context.measure(plan, opponent)
    files.write_evaluation(evaluation)
    return evaluation


def _compared_with(evaluation: Evaluation) -> str | None:
    return evaluation.comparison.champion if evaluation.comparison else None


def promote(context: RecordContext, plan: Plan) -> Decision | None:
    """Let the gate decide, and swap the champion.

    None for a run that is no candidate, left no model, or waits for a person's approval.
    """
    files = context.files(plan.run_id)
    if plan.purpose != "retrain":
        return None
    with context.timed(plan.run_id, "promote"):
        decision = files.decision() or _refused_by_person(context, plan) or _decide_and_swap(context, plan)
    if decision:
        files.write_decision(decision)
    return decision


def _refused_by_person(context: RecordContext, plan: Plan) -> Decision | None:
    """Return the refusal of a candidate that was rejected, or not approved in time; it needs no evaluation."""
    approval = find_approval(context.store, plan, context.clock())
    return refusal(approval.verdict) if approval else None


def _decide_and_swap(context: RecordContext, plan: Plan) -> Decision | None:
    """If another candidate is promoted in between, judge this one again, against the new champion."""
    while True:
        seen = context.store.champion.read()
        if champions.was_promoted(seen, plan.run_id):
            return Decision(promoted=True, reasons=())
        evaluation = evaluate(context, plan)
        if evaluation is None:
            return None
        decision = decide(plan.task.gate, evaluation)
        if not decision.promoted:
            return decision
        verdict = None
        if plan.task.gate.approval == "manual":
            verdict = request_approval(context.store, plan, context.clock())
            if verdict is None or verdict.kind != "approved":
                return refusal(verdict)
        with suppress(Conflict):
            _put_in_force(context, seen, plan.run_id, verdict)
            return decision


def _put_in_force(context: RecordContext, seen: ChampionSnapshot, run_id: str, approved: Verdict | None) -> None:
    if approved:
        context.store.champion.swap(seen, run_id, "approved", Author(approved.author, approved.reason))
    else:
        context.store.champion.swap(seen, run_id, "promoted")


def record(context: RecordContext, plan: Plan) -> Ended:
    """Write a run's record into the ledger, or return the approval that it waits for."""
    approval = find_approval(context.store, plan, context.clock())
    return approval if approval and is_waiting(approval) else write_record(context, plan)


def write_record(context: RecordContext, plan: Plan, error: str | None = None) -> RunRecord:
    """Write a run's record into the ledger; the first record written stays.

    A run that failed is charged for the iterations of its last saved state, which no run resumes.
    """
    with context.store.run(plan.run_id).checkpoints() as checkpoints:
        found = context.store.ledger.find(plan.run_id)
        entry = found or _assemble(context, plan, error, lost=checkpoints.iteration())
        entry = context.store.ledger.write(entry)
        checkpoints.clear()
    return entry


def _assemble(context: RecordContext, plan: Plan, error: str | None, lost: int) -> RunRecord:
    """What was promoted is recorded as the champions' history has it.

    A worker that was overtaken may have written its own evaluation over that which decided.
    """
    files = context.files(plan.run_id)
    evaluation, decision = files.evaluation(), files.decision()
    if champions.was_promoted(context.store.champion.read(), plan.run_id):
        evaluation, decision = evaluate(context, plan), decision or Decision(promoted=True, reasons=())
    record = make_record(plan, files.result(), evaluation, decision, error, lost)
    return record.model_copy(update={"stage_seconds": dict(context.stage_seconds[plan.run_id])})


def record_failure(context: RecordContext, plan: Plan, error: str) -> RunRecord:
    """Record that a retraining failed, under the attempt that it had come to; once promoted, it has not failed."""
    plan = next_run.latest_attempt(context.store, plan)
    if champions.was_promoted(context.store.champion.read(), plan.run_id):
        promote(context, plan)
        return write_record(context, plan)
    return write_record(context, plan, error)
