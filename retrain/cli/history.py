"""Show a task's state and its ended runs: `retrain status`, `history`, `show` and `metrics`."""

from typing import TYPE_CHECKING

import typer

from retrain.cli.options import NONE, AsJson, Overrides, RunId, TaskName, open_task
from retrain.cli.output import write_utf8

if TYPE_CHECKING:
    from rich.table import Table

    from retrain.records import Plan, RunRecord


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (status, history, show, metrics):
        app.command()(command)


def status(task: TaskName, as_json: AsJson = False, overrides: Overrides = NONE) -> None:
    """Show the champion, the baseline, waiting drops and the savings."""
    from retrain.cli.formatting import print_record, status_details
    from retrain.pipeline.status import read_status

    opened, store = open_task(task, overrides)
    print_record(read_status(opened, store), status_details, as_json)


def history(task: TaskName, as_json: AsJson = False, overrides: Overrides = NONE) -> None:
    """List all ended runs, oldest first. `saved` is in training iterations.

    The cost of evaluations is not subtracted.
    """
    from retrain.cli.formatting import history_table, print_record

    _, store = open_task(task, overrides)
    print_record(store.ledger.read(), history_table, as_json)


def show(run_id: RunId, task: TaskName, as_json: AsJson = False, overrides: Overrides = NONE) -> None:
    """Show the record of a run, or of a candidate that awaits approval, and the errors of its model."""
    from retrain.cli import formatting
    from retrain.cli.error_tables import MISTAKES, error_tables
    from retrain.errors import RunError
    from retrain.pipeline.approval import read_candidate
    from retrain.pipeline.mistake_keys import name_mistakes

    _, store = open_task(task, overrides)
    record = store.ledger.find(run_id)
    candidate = None if record else read_candidate(store, run_id)
    if candidate:
        record = candidate.record
    if record is None:
        raise RunError(f"{run_id} is not in the ledger of task {store.task}: `retrain history` lists its runs")

    def details_of(record: "RunRecord") -> "Table":
        table = formatting.record_details(record, candidate=candidate)
        if record.purpose == "trial":  # trials of one task differ in their recipes
            table.add_row("recipe", _describe_recipe(store.run(run_id).plan()))
        return table

    formatting.print_record(record, details_of, as_json)
    errors = None if as_json else store.run(run_id).errors()
    if errors:
        shown = name_mistakes(errors.mistakes[:MISTAKES], run_id, store)
        errors = errors.model_copy(update={"mistakes": shown})
        formatting.print_tables("", *error_tables(errors))


def _describe_recipe(plan: "Plan") -> str:
    """Return the settings of a recipe's aspects, preceded by the preset if the method uses it."""
    recipe = plan.recipe
    preset = f"preset {recipe.preset}: " if plan.method == "continuous" else ""
    start = f"{preset}start {recipe.initialization.name}, penalty {recipe.objective.name}"
    return f"{start}, sampling {recipe.sampling.name}, schedule {recipe.schedule.name}"


def metrics(task: TaskName, overrides: Overrides = NONE) -> None:
    """Print the ledger's totals in the Prometheus text format."""
    from retrain.monitoring.metrics import render

    _, store = open_task(task, overrides)
    write_utf8()
    typer.echo(render(store.ledger.read()).decode(), nl=False)
