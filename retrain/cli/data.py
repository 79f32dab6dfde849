"""`retrain data`."""

from pathlib import Path
from typing import Annotated

import typer

from retrain.cli.options import NONE, Device, Overrides, TaskName, open_task, output_errors
from retrain.utils.text import pluralize

app = typer.Typer(no_args_is_help=True)


@app.command()
def review(
    task: TaskName,
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")] = Path("review.html"),
    csv: Annotated[
        Path | None,
        typer.Option(
            help="Also write the likely wrong labels to a CSV file for `retrain drop amend`, with the proposed classes."
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(min=1, help="Largest number of training samples, and of held-out samples, to list."),
    ] = 100,
    device: Device = "auto",
    overrides: Overrides = NONE,
) -> None:
    """Write a page of the samples whose labels are likely wrong, of near-duplicates and of odd images."""
    from retrain.monitoring.report.page import render_review
    from retrain.pipeline.context import make_context
    from retrain.pipeline.review import review_data, write_corrections

    opened, store = open_task(task, overrides)
    found = review_data(make_context(store, opened, device), opened, limit)
    page = render_review(opened.name, found)
    with output_errors(output):
        output.write_text(page, encoding="utf-8")
    if csv:
        with output_errors(csv, "--csv"):
            write_corrections([*found.trained, *found.held_out], csv)
    leaks = pluralize(found.alike.leaks, "pair")
    typer.echo(
        f"{pluralize(len(found.trained), 'training sample')} and {len(found.held_out):,} held-out samples to review; "
        f"{pluralize(len(found.alike), 'pair')} of near-duplicates, including {leaks} of a training and a held-out "
        "sample"
    )
    typer.echo(output.resolve().as_uri())
