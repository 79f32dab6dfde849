"""Choose the champion by hand: `retrain approve`, `reject`, `promote` and `rollback`."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from retrain.cli.options import (
    NONE,
    Author,
    Device,
    Overrides,
    RunId,
    TaskName,
    Yes,
    confirm,
    decide_author,
    open_task,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain.records import Verdict
    from retrain.store.task_store import TaskStore

Reason = Annotated[str | None, typer.Option(help="The reason, recorded in the champion's history.")]

NOT_PROMOTED = 1
"""Exit code of an approval that promoted nothing: the candidate failed the gate against a newer champion."""


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (approve, reject, promote, rollback):
        app.command()(command)


def approve(
    run_id: RunId,
    task: TaskName,
    reason: Reason = None,
    author: Author = None,
    device: Device = "auto",
    overrides: Overrides = NONE,
) -> None:
    """Promote a candidate that passed the gate and awaits approval."""
    _decide(run_id, "approved", task, author, reason, device, overrides)


def reject(
    run_id: RunId,
    task: TaskName,
    reason: Annotated[str, typer.Option(help="The reason, recorded in the run's record.")],
    author: Author = None,
    device: Device = "auto",
    overrides: Overrides = NONE,
) -> None:
    """Refuse a candidate that passed the gate and awaits approval."""
    _decide(run_id, "rejected", task, author, reason, device, overrides)


def _decide(
    run_id: str,
    kind: Literal["approved", "rejected"],
    task: str,
    author: str | None,
    reason: str | None,
    device: str,
    overrides: "Sequence[str]",
) -> None:
    """Write the verdict, and then finish the run. After an interruption, the next run or the watcher finishes it."""
    from retrain.records import Approval, Verdict
    from retrain.utils.clock import utc_now

    opened, store = open_task(task, overrides)
    _write_verdict(store, run_id, Verdict(kind=kind, author=decide_author(author), reason=reason, at=utc_now()))

    from retrain.pipeline import stages  # after the verdict, because importing torch takes seconds
    from retrain.pipeline.context import make_context
    from retrain.tracking.hook import update_trackers

    ended = stages.finish_approval(make_context(store, opened, device), run_id)
    if isinstance(ended, Approval) or ended.decision is None:
        raise AssertionError(f"{run_id} has a verdict but no decision")
    update_trackers(opened, store)
    typer.echo(f"{run_id} is {ended.ending}" + "".join(f"; {why}" for why in ended.decision.reasons))
    if kind == "approved" and not ended.decision.promoted:
        raise typer.Exit(NOT_PROMOTED)


def _write_verdict(store: "TaskStore", run_id: str, verdict: "Verdict") -> None:
    """Write a verdict, unless an interrupted command has already written it."""
    approval = store.approvals.find(run_id)
    known = store.approvals.expire(approval, verdict.at).verdict if approval else None
    if known is None or known.kind != verdict.kind or store.ledger.find(run_id):
        store.approvals.decide(run_id, verdict)


def promote(
    run_id: RunId,
    task: TaskName,
    reason: Reason = None,
    author: Author = None,
    force: Annotated[
        bool, typer.Option("--force", help="Promote a run even if it was never tested or awaits approval.")
    ] = False,
    yes: Yes = False,
    overrides: Overrides = NONE,
) -> None:
    """Promote a run's model by hand, without the gate."""
    from retrain.errors import RunError
    from retrain.pipeline.approval import promote_by_hand
    from retrain.records import Verdict
    from retrain.store import champions
    from retrain.tracking.hook import update_trackers
    from retrain.utils.clock import utc_now

    opened, store = open_task(task, overrides)
    awaits = _check_promotable(store, run_id, force)
    seen = store.champion.read()
    if seen.run_id == run_id:
        raise RunError(f"{run_id} is already the champion: nothing to promote")
    confirm(f"Promote {run_id} to champion of {store.task}, in place of {seen.run_id or 'no model'}?", yes)
    by = champions.Author(decide_author(author), reason)
    if awaits:
        store.approvals.decide(run_id, Verdict(kind="approved", author=by.name, reason=reason, at=utc_now()))
    promote_by_hand(store, seen, run_id, "promoted by hand", by)
    update_trackers(opened, store)
    typer.echo(f"{run_id} is the champion of {store.task}")


def _check_promotable(store: "TaskStore", run_id: str, force: bool) -> bool:
    """Return whether a run awaits approval.

    Raises `RunError` if the run has no complete model or, without `force`, if it was not tested or awaits approval.
    """
    from retrain.config.loading import task_argument
    from retrain.errors import RunError
    from retrain.utils.clock import utc_now

    files = store.run(run_id)
    files.plan()  # raises if there is no such run
    result = files.result()
    if result is None or result.model_digest is None:
        ending = result.outcome if result else "has not ended"
        raise RunError(f"{run_id} {ending}: it has no model to promote; `retrain history` lists the other runs")
    _check_tested(store, run_id, force, "promote it")
    approval = store.approvals.find(run_id)
    awaits = approval is not None and approval.verdict is None
    if not force and approval and awaits:
        both_commands = approval.describe(task_argument(store.task), utc_now())
        raise RunError(f"{both_commands}, or pass --force to promote the run without approval")
    return awaits


def _check_tested(store: "TaskStore", run_id: str, force: bool, action: str) -> None:
    """Raise `RunError` if a run's weights are missing or, without `force`, if it was never tested."""
    from retrain.errors import RunError

    files = store.run(run_id)
    files.weights()
    if not force and files.evaluation() is None:
        raise RunError(f"{run_id} was never tested on the test split; pass --force to {action} anyway")


def rollback(
    task: TaskName,
    reason: Reason = None,
    author: Author = None,
    force: Annotated[bool, typer.Option("--force", help="Roll back even to a run that was never tested.")] = False,
    yes: Yes = False,
    overrides: Overrides = NONE,
) -> None:
    """Make the previous champion the champion again."""
    from retrain.errors import RunError
    from retrain.pipeline.approval import promote_by_hand
    from retrain.store import champions
    from retrain.tracking.hook import update_trackers

    opened, store = open_task(task, overrides)
    seen = store.champion.read()
    if seen.champion is None:
        raise RunError(f"task {store.task} has no champion yet: nothing to roll back")
    run_id = champions.rollback_target(seen.champion)
    _check_tested(store, run_id, force, "roll back to it")
    confirm(f"Roll {store.task} back to {run_id}, in place of {seen.run_id}?", yes)
    promote_by_hand(store, seen, run_id, "rolled back", champions.Author(decide_author(author), reason))
    update_trackers(opened, store)
    typer.echo(f"{run_id} is the champion of {store.task} again")
