"""What ended runs left, and which model is in force: `retrain status`, `history`, `show`, `promote`, ..., `metrics`."""

import typer

from retrain.cli.options import NONE, AsJson, Overrides, RunId, TaskName, open_task


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (status, history, show, promote, rollback, metrics):
        app.command()(command)


def status(task: TaskName, as_json: AsJson = False, overrides: Overrides = NONE) -> None:
    """Show the champion, the baseline, what waits, and what was saved."""
    from retrain.cli.formatting import print_record, status_details
    from retrain.pipeline.status import read_status

    opened, store = open_task(task, overrides)
    print_record(read_status(opened, store), status_details, as_json)


def history(task: TaskName, as_json: AsJson = False, overrides: Overrides = NONE) -> None:
    """List all ended runs, oldest first; saved is gross, in iterations."""
    from retrain.cli.formatting import history_table, print_record

    _, store = open_task(task, overrides)
    print_record(store.ledger.read(), history_table, as_json)


def show(run_id: RunId, task: TaskName, as_json: AsJson = False, overrides: Overrides = NONE) -> None:
    """Show one run's record."""
    from retrain.cli import formatting
    from retrain.errors import RunError

    _, store = open_task(task, overrides)
    record = store.ledger.find(run_id)
    if record is None:
        raise RunError(f"{run_id} is not in the ledger of task {store.task}; `retrain history` lists what is")
    formatting.print_record(record, formatting.record_details, as_json)


def promote(run_id: RunId, task: TaskName, overrides: Overrides = NONE) -> None:
    """Put a run's model in force by hand, past the gate."""
    from retrain.errors import RunError

    _, store = open_task(task, overrides)
    files = store.run(run_id)
    files.plan()  # raises where there is no such run
    result = files.result()
    if result is None or result.model_digest is None:
        raise RunError(f"{run_id} {result.outcome if result else 'has not ended'}: it left no model to promote")
    files.weights()
    store.champion.promote_manually(store.champion.read(), run_id, "promoted by hand")
    typer.echo(f"{run_id} is the champion of {store.task}")


def rollback(task: TaskName, overrides: Overrides = NONE) -> None:
    """Put the champion before this one back in force."""
    from retrain.errors import RunError
    from retrain.store import champions

    _, store = open_task(task, overrides)
    seen = store.champion.read()
    if seen.champion is None:
        raise RunError(f"task {store.task} has no champion yet")
    run_id = champions.rollback_target(seen.champion)
    store.champion.promote_manually(seen, run_id, "rolled back")
    typer.echo(f"{run_id} is the champion of {store.task} again")


def metrics(task: TaskName, overrides: Overrides = NONE) -> None:
    """Print the ledger's totals in the Prometheus text format."""
    from retrain.monitoring.metrics import render

    _, store = open_task(task, overrides)
    typer.echo(render(store.ledger.read()).decode(), nl=False)
