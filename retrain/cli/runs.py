"""The life of a drop: `retrain run`, `baseline`, `status`, `history`, `show`, `promote`, `rollback`, `metrics`."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from retrain.cli.options import (
    NONE,
    AsJson,
    Device,
    Overrides,
    RunId,
    TaskName,
    make_context,
    open_task,
)
from retrain.words import Method

if TYPE_CHECKING:
    from retrain.planning import Nothing
    from retrain.records import RunRecord

ENDED_WITHOUT_MODEL = 1
"""Exit code of a retraining that ended without promoting its model."""


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (run, baseline, status, history, show, promote, rollback, metrics):
        app.command()(command)


def run(
    task: TaskName,
    method: Annotated[Method | None, typer.Option(help="Instead of what the plan would choose.")] = None,
    until: Annotated[
        Literal["99", "100"] | None, typer.Option(help="Stop at L_99 or L_100; target.level if absent.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random; the task's if absent.")] = None,
    device: Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and why, and do nothing.")] = False,
    trial: Annotated[bool, typer.Option("--trial", help="Train and record for comparison; never promote.")] = False,
    on: Annotated[Literal["here", "kfp-local"], typer.Option(help="Where the stages run.")] = "here",
    as_json: AsJson = False,
    overrides: Overrides = NONE,
) -> None:
    """Retrain on whatever has landed: plan, train, evaluate, promote, record."""
    chosen = [
        *overrides,
        *([f"target.level={until}"] if until else []),
        *([f"seed={seed}"] if seed is not None else []),
    ]
    from retrain.planning import Nothing, Request

    request = Request(method, "trial" if trial else "retrain")
    opened, store, layout = open_task(task, chosen)
    if on == "kfp-local":
        from pipelines.local import run_locally

        _finish(run_locally(opened, request, device), as_json)
        return
    from retrain import stages
    from retrain.cli.tables import plan_details
    from retrain.cli.tables import show as show_record

    context = make_context(store, layout, device)
    if dry_run:
        planned = stages.preview(context, opened, request)
        typer.echo(planned.reason) if isinstance(planned, Nothing) else show_record(planned, plan_details, as_json)
        return
    _finish(stages.run(context, opened, request), as_json)


def baseline(task: TaskName, device: Device = "auto", as_json: AsJson = False, overrides: Overrides = NONE) -> None:
    """Calibrate: train from scratch on the newest dataset, only to measure what targets come from."""
    from retrain import stages
    from retrain.planning import Request

    opened, store, layout = open_task(task, overrides)
    _finish(stages.run(make_context(store, layout, device), opened, Request(purpose="calibrate")), as_json)


def _finish(ended: "RunRecord | Nothing", as_json: bool) -> None:
    """Print how it ended; a retraining that yielded no champion exits with `ENDED_WITHOUT_MODEL`."""
    from retrain.cli.tables import record_details, show
    from retrain.planning import Nothing

    if isinstance(ended, Nothing):
        typer.echo(f"nothing to do: {ended.reason}", err=as_json)
        return
    show(ended, record_details, as_json)
    if ended.purpose == "retrain" and not (ended.decision and ended.decision.promoted):
        raise typer.Exit(ENDED_WITHOUT_MODEL)


def status(task: TaskName, as_json: AsJson = False, overrides: Overrides = NONE) -> None:
    """Show the champion, the baseline, what waits, and what was saved."""
    from retrain.cli.tables import show, status_details
    from retrain.status import read_status

    opened, store, layout = open_task(task, overrides)
    show(read_status(opened, store, layout), status_details, as_json)


def history(task: TaskName, as_json: AsJson = False, overrides: Overrides = NONE) -> None:
    """List all ended runs, oldest first."""
    from retrain import ledger
    from retrain.cli.tables import history_table, show

    _, store, layout = open_task(task, overrides)
    show(ledger.read(store, layout), history_table, as_json)


def show(run_id: RunId, task: TaskName, as_json: AsJson = False, overrides: Overrides = NONE) -> None:
    """Show one run's record."""
    from retrain import ledger
    from retrain.cli.tables import record_details
    from retrain.cli.tables import show as show_record
    from retrain.errors import RunError

    _, store, layout = open_task(task, overrides)
    record = ledger.find(store, layout, run_id)
    if record is None:
        raise RunError(f"{run_id} is not in the ledger of task {layout.task}; `retrain history` lists what is")
    show_record(record, record_details, as_json)


def promote(run_id: RunId, task: TaskName, overrides: Overrides = NONE) -> None:
    """Put a run's model in force by hand, past the gate."""
    from retrain import registry
    from retrain.runs import RunFiles

    _, store, layout = open_task(task, overrides)
    RunFiles(store, layout, run_id).weights()
    registry.put_in_force(store, layout, registry.read(store, layout), run_id, "promoted by hand")
    typer.echo(f"{run_id} is the champion of {layout.task}")


def rollback(task: TaskName, overrides: Overrides = NONE) -> None:
    """Put the champion before this one back in force."""
    from retrain import registry
    from retrain.errors import RunError

    _, store, layout = open_task(task, overrides)
    seen = registry.read(store, layout)
    if seen.champion is None:
        raise RunError(f"task {layout.task} has no champion yet")
    run_id = registry.previous(seen.champion)
    registry.put_in_force(store, layout, seen, run_id, "rolled back")
    typer.echo(f"{run_id} is the champion of {layout.task} again")


def metrics(task: TaskName, overrides: Overrides = NONE) -> None:
    """Print the ledger's totals in the Prometheus text format."""
    from retrain import ledger
    from retrain.observe.metrics import render

    _, store, layout = open_task(task, overrides)
    typer.echo(render(ledger.read(store, layout)).decode(), nl=False)
