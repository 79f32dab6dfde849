"""`retrain exporter`, `retrain report` and `retrain fleet`.

The exporter serves metrics and pages over HTTP. The other commands write the same pages to files.
"""

from pathlib import Path
from typing import Annotated

import typer

from retrain.cli.options import NONE, Overrides, TaskName, TaskNames, open_task, output_errors
from retrain.utils.logs import LOGGER


def exporter(
    task: TaskNames,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 9109,
    host: Annotated[str, typer.Option(help="Address to listen on. :: allows other machines.")] = "127.0.0.1",
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between reads of the stores.")] = 30,
    overrides: Overrides = NONE,
) -> None:
    """Serve /metrics, a page for each task and a page for all tasks, until stopped."""
    from retrain.config.loading import load_tasks
    from retrain.monitoring.server import serve_exporter, stop_on_signals
    from retrain.monitoring.web import url_host

    tasks = load_tasks(task, overrides)
    LOGGER.info("serving /metrics, /healthz and the pages on http://%s:%d/", url_host(host), port)
    serve_exporter(tasks, host, port, every, stop_on_signals())


def report(
    task: TaskName,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("report.html"),
    overrides: Overrides = NONE,
) -> None:
    """Write one HTML page with the savings and all runs. The page can be read offline."""
    from retrain.monitoring.report import read_sources, render_page

    _, store = open_task(task, overrides)
    _write_page(render_page(read_sources(store, store.ledger.read())), output)


def fleet(
    task: TaskNames,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("fleet.html"),
    overrides: Overrides = NONE,
) -> None:
    """Write one HTML page for all tasks: savings, state, age of the champions, waiting drops, and cost by month."""
    from retrain.config.loading import load_tasks
    from retrain.monitoring.report.fleet import read_fleet, render_fleet

    _write_page(render_fleet(read_fleet(load_tasks(task, overrides))), output)


def _write_page(page: str, output: Path) -> None:
    """Write a page, and print its address."""
    with output_errors(output):
        output.write_text(page, encoding="utf-8")
    typer.echo(output.resolve().as_uri())
