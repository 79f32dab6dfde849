"""`retrain pipeline`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrain.cli.options import NONE, KubeflowHost, Overrides, TaskName, as_overrides, open_task, output_errors
from retrain.cli.output import write_utf8
from retrain.errors import TaskError, UserError
from retrain.utils.logs import LOGGER

if TYPE_CHECKING:
    from retrain.config.task import Task


app = typer.Typer(no_args_is_help=True)


@app.command("compile")
def compile_(
    task: TaskName,
    output: Annotated[Path, typer.Option("--output", "-o", help="YAML file to write.")],
    overrides: Overrides = NONE,
) -> None:
    """Write a task's pipeline as YAML, for upload to Kubeflow Pipelines."""
    from retrain.config.loading import load_task
    from retrain.pipelines.definition import compile_pipeline

    if output.suffix not in (".yaml", ".yml"):
        raise UserError(f"--output {output}: must end in .yaml")
    opened = load_task(task, overrides)
    _warn_of_local_store(opened)
    with output_errors(output):
        compile_pipeline(opened, output)
    typer.echo(f"wrote {output}")


@app.command()
def trainjob(task: TaskName, overrides: Overrides = NONE) -> None:
    """Plan the next run, and print a TrainJob that executes it on several nodes, for `kubectl create -f -`."""
    from retrain.kubeflow.trainjob import render_trainjob
    from retrain.pipeline import next_run
    from retrain.pipeline.planning import NoRunNeeded, Request

    opened, store = open_task(task, overrides)
    _warn_of_local_store(opened)
    planned = next_run.plan_next_run(store, opened, Request())
    if isinstance(planned, NoRunNeeded):
        typer.echo(f"nothing to do: {planned.reason}", err=True)
        return
    next_run.check_model(planned, store, elsewhere=True)
    next_run.keep_plan(store, planned)
    write_utf8()
    typer.echo(render_trainjob(opened, planned.run_id), nl=False)


def build_pipeline(task: "Task") -> Any:
    """Return a task's KFP pipeline, a `GraphComponent`. Imports kfp only when called, to keep the watcher small."""
    from retrain.pipelines.definition import build

    return build(task)


def _warn_of_local_store(task: "Task") -> None:
    if "://" not in task.store:
        LOGGER.warning(
            "store %s is a local folder: pods cannot read it; set `store` to s3://, gs:// or az://", task.store
        )


@app.command()
def register(task: TaskName, host: KubeflowHost = None, overrides: Overrides = NONE) -> None:
    """Register a task's pipeline: Kubeflow's page then lists it and can start runs of it."""
    from retrain.config.loading import load_task
    from retrain.kubeflow.client import register as register_pipeline

    opened = load_task(task, [*overrides, *as_overrides({"--host": ("kubeflow.host", host)})])
    _warn_of_local_store(opened)
    found = register_pipeline(opened, build_pipeline)
    how = "registered" if found.new else "already registered"
    typer.echo(f"{how}: version {found.version} of pipeline {found.pipeline}")


@app.command("schedule")
def schedule_(
    task: TaskName,
    cron: Annotated[str | None, typer.Option(help="Five cron fields, in UTC (default: the task's schedule).")] = None,
    host: KubeflowHost = None,
    overrides: Overrides = NONE,
) -> None:
    """Schedule retraining on Kubeflow at the times of a cron schedule. Replaces an earlier schedule."""
    from retrain.config.loading import load_task
    from retrain.kubeflow.client import schedule

    chosen = {"--host": ("kubeflow.host", host), "--cron": ("schedule", cron)}
    opened = load_task(task, [*overrides, *as_overrides(chosen)])
    if opened.schedule is None:
        raise TaskError(f"no schedule for task {opened.name}: pass --cron or set `schedule` in the task file")
    recurring = schedule(opened, build_pipeline)
    typer.echo(f"scheduled: {opened.name} is retrained at {opened.schedule} UTC (Kubeflow recurring run {recurring})")
