"""`retrain report`."""

from pathlib import Path
from typing import Annotated

import typer

from retrain.cli.options import NONE, Overrides, TaskName, open_task, writing


def report(
    task: TaskName,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the page.")] = Path("report.html"),
    overrides: Overrides = NONE,
) -> None:
    """Write what was saved, and every run, as one HTML page that needs no network."""
    from retrain import ledger
    from retrain.observe.report import gather, render

    _, store, layout = open_task(task, overrides)
    page = render(gather(store, layout, ledger.read(store, layout)))
    with writing(output):
        output.write_text(page, encoding="utf-8")
    typer.echo(f"{output.resolve().as_uri()}")
