"""`retrain exporter`."""

from typing import Annotated

import typer

from retrain.cli.options import NONE, Overrides


def exporter(
    task: Annotated[list[str], typer.Option("--task", "-t", help="A task's name or its file (repeatable).")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to listen.")] = 9109,
    host: Annotated[str, typer.Option(help="0.0.0.0 listens to other machines too.")] = "127.0.0.1",
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks at the stores.")] = 30,
    overrides: Overrides = NONE,
) -> None:
    """Serve /metrics and a page for each task, from their ledgers, until stopped."""
    from retrain.observe.server import serve, stop_on_signals
    from retrain.tasks import load_task

    tasks = [load_task(name, overrides) for name in task]
    typer.echo(f"serving /metrics, /healthz and the page on http://{host}:{port}/", err=True)
    serve(tasks, host, port, every, stop_on_signals())
