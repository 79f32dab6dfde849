"""`retrain track`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from retrain.cli.options import NONE, Overrides, TaskName, open_task, output_errors


def track(
    task: TaskName,
    to: Annotated[Literal["mlflow", "model-registry", "tensorboard"], typer.Option(help="The tracker to export to.")],
    uri: Annotated[
        str | None,
        typer.Option(help="Address of the server (default: $MLFLOW_TRACKING_URI or $MODEL_REGISTRY_URL)."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of TensorBoard event files, with a folder for each task.")
    ] = Path("tensorboard"),
    overrides: Overrides = NONE,
) -> None:
    """Export all ended runs, their curves and the champions to a tracker.

    Runs and models that the tracker already has do not change.

    A Model Registry receives only the champions.
    """
    from retrain.utils.text import pluralize

    opened, store = open_task(task, overrides)
    if to == "model-registry":
        from retrain.tracking.model_registry import export_to_registry

        registered = export_to_registry(store, uri)
        mark = f"; champion is {registered.champion}" if registered.champion else ""
        typer.echo(f"{pluralize(registered.versions, 'model version')} added{mark}")
        return
    if to == "mlflow":
        from retrain.inference.loading import find_source
        from retrain.tracking.mlflow_server import export_to_mlflow

        added = export_to_mlflow(find_source(opened), uri)
        alias = f"; champion is version {added.champion} of {store.task}" if added.champion else ""
        typer.echo(f"{pluralize(added.runs, 'run')} and {pluralize(added.versions, 'model version')} added{alias}")
        return
    from retrain.tracking.tensorboard_files import write_event_files

    folder = output / store.task
    with output_errors(output):
        count = write_event_files(store, folder)
    typer.echo(f"{pluralize(count, 'run')} added; view them with `tensorboard --logdir {output}`")
