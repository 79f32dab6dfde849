"""`retrain run` and `retrain baseline`."""

import json
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from retrain.cli.options import (
    NONE,
    AsJson,
    Device,
    KubeflowHost,
    MetricsHost,
    MetricsPort,
    Overrides,
    TaskName,
    as_overrides,
    open_task,
)
from retrain.cli.pipeline import build_pipeline
from retrain.config import Method
from retrain.utils.logs import LOGGER

if TYPE_CHECKING:
    from retrain.config.task import Task
    from retrain.pipeline.planning import NoRunNeeded, Request
    from retrain.pipeline.stages import Ended
    from retrain.records import Plan
    from retrain.store.task_store import TaskStore


NOT_PROMOTED = 1
"""Exit code of a retraining that ended without promoting its model."""
AWAITS_APPROVAL = 3
"""Exit code of a retraining whose candidate waits for `retrain approve`."""


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (run, baseline):
        app.command()(command)


def run(
    task: TaskName,
    method: Annotated[Method | None, typer.Option(help="Method of the run (default: the plan chooses).")] = None,
    until: Annotated[
        Literal["99", "100"] | None,
        typer.Option(help="Percentage of scratch's accuracy at which to stop (default: target.level of the task)."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed (default: the task's).")] = None,
    device: Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and its reasons, and change nothing.")
    ] = False,
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Start now, without waiting for the task's trigger.")
    ] = False,
    trial: Annotated[
        bool, typer.Option("--trial", help="Train and record a run only for comparison, without promotion.")
    ] = False,
    on: Annotated[
        Literal["here", "kfp-local", "kubeflow"],
        typer.Option(help="Where the stages run: in this process, in KFP's local runner, or on Kubeflow."),
    ] = "here",
    host: KubeflowHost = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
    as_json: AsJson = False,
    overrides: Overrides = NONE,
) -> None:
    """Retrain on the drops that have landed: plan, train, evaluate, promote, record."""
    from retrain.pipeline.planning import Request

    request = Request(method, "trial" if trial else "retrain")
    chosen = as_overrides(
        {
            "--until": ("target.level", until and int(until)),
            "--seed": ("seed", seed),
            "--host": ("kubeflow.host", host),
            "--at-once": ("trigger", {} if at_once else None),
        }
    )
    opened, store = open_task(task, [*overrides, *chosen])
    if dry_run:
        from retrain.pipeline import next_run

        _preview(next_run.plan_next_run(store, opened, request), store, on, device, as_json)
        _warn_of_trackers(opened)
    elif on == "kfp-local":
        from retrain.kubeflow.local import run_locally
        from retrain.pipelines.definition import define_locally

        _finish(run_locally(opened, request, device, define_locally), opened, store, as_json)
    elif on == "kubeflow":
        _submit(opened, store, request, as_json)
    else:
        from retrain.monitoring.observers import make_observers
        from retrain.pipeline import stages
        from retrain.pipeline.context import make_context

        context = make_context(store, opened, device, partial(make_observers, metrics_port, metrics_host))
        _finish(stages.run_locked(context, opened, request), opened, store, as_json)


def _submit(task: "Task", store: "TaskStore", request: "Request", as_json: bool) -> None:
    """Submit the next run to Kubeflow, and print its Kubeflow id."""
    from retrain.errors import RunError
    from retrain.kubeflow.submission import record_if_ended, require_submittable, submit
    from retrain.pipeline import next_run
    from retrain.pipeline.planning import NoRunNeeded

    require_submittable(task)
    with store.lock() as locked:
        planned = next_run.plan_and_quarantine(locked, task, request)
        if isinstance(planned, NoRunNeeded):
            _end_without_run(planned, as_json)
        next_run.keep_plan(locked, planned)
        submitted = submit(task, planned, locked, build_pipeline)
        if error := record_if_ended(task, planned, submitted):
            raise RunError(f"{planned.run_id} failed: {error}; run the command again to start a new run")
    if as_json:
        typer.echo(json.dumps({"run_id": planned.run_id, **submitted._asdict()}, indent=2))
    else:
        how = "submitted" if submitted.new else "already submitted"
        typer.echo(f"{planned.run_id} {how} as Kubeflow run {submitted.id}")


def baseline(
    task: TaskName,
    device: Device = "auto",
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
    as_json: AsJson = False,
    overrides: Overrides = NONE,
) -> None:
    """Train from scratch on the newest dataset, to measure the accuracy and iterations that later targets need."""
    from retrain.monitoring.observers import make_observers
    from retrain.pipeline import stages
    from retrain.pipeline.context import make_context
    from retrain.pipeline.planning import Request

    opened, store = open_task(task, overrides)
    context = make_context(store, opened, device, partial(make_observers, metrics_port, metrics_host))
    _finish(stages.run_locked(context, opened, Request(purpose="calibrate")), opened, store, as_json)


def _preview(planned: "Plan | NoRunNeeded", store: "TaskStore", on: str, device: str, as_json: bool) -> None:
    """Print the plan of the next run, after checking that its model can be built, and that the device is available.

    Kubeflow's pods have other devices than this machine, so the device is not checked for them.
    """
    from retrain.cli import formatting
    from retrain.pipeline import next_run
    from retrain.pipeline.planning import NoRunNeeded

    if isinstance(planned, NoRunNeeded):
        _print_no_run(planned, as_json)
    else:
        if on != "kubeflow":
            from retrain.pipeline.context import pick_device

            pick_device(device)
        next_run.check_model(planned, store, elsewhere=on == "kubeflow")
        formatting.print_record(planned, formatting.plan_details, as_json)


def _warn_of_trackers(task: "Task") -> None:
    """Log a warning for each of the task's trackers to which this machine cannot export."""
    from retrain.doctor.trackers import check_trackers

    for finding in check_trackers(task):
        if finding.state != "ok":
            LOGGER.warning("%s. %s", finding.found.rstrip("."), finding.mend)


def _print_no_run(no_run: "NoRunNeeded", as_json: bool) -> None:
    """Print why no run is needed. As JSON, print null."""
    state = "not yet" if no_run.deferred else "nothing to do"
    hint = "; pass --at-once to start it now" if no_run.deferred else ""
    typer.echo(f"{state}: {no_run.reason}{hint}", err=as_json)
    if as_json:
        typer.echo("null")


def _end_without_run(no_run: "NoRunNeeded", as_json: bool) -> NoReturn:
    """Print why no run is needed, and exit. The exit code is `AWAITS_APPROVAL` if a candidate awaits approval."""
    _print_no_run(no_run, as_json)
    raise typer.Exit(AWAITS_APPROVAL if no_run.awaits_approval else 0)


def _finish(ended: "Ended | NoRunNeeded", task: "Task", store: "TaskStore", as_json: bool) -> None:
    """Update the task's trackers, and print the result of a retraining.

    Exits with `NOT_PROMOTED` if it promoted no model, and with `AWAITS_APPROVAL` if a candidate awaits approval.
    """
    from retrain.cli import formatting
    from retrain.config.loading import task_argument
    from retrain.pipeline.planning import NoRunNeeded
    from retrain.records import Approval
    from retrain.tracking.hook import update_trackers
    from retrain.utils.clock import utc_now

    update_trackers(task, store)
    if isinstance(ended, NoRunNeeded):
        _end_without_run(ended, as_json)
    if isinstance(ended, Approval):
        typer.echo(ended.model_dump_json(indent=2) if as_json else ended.describe(task_argument(task.name), utc_now()))
        raise typer.Exit(AWAITS_APPROVAL)
    records = [] if as_json else store.ledger.read()
    formatting.print_record(ended, partial(formatting.record_details, ledger=records), as_json)
    if ended.purpose == "trial" and ended.method == "scratch" and not as_json:
        named = task_argument(task.name)
        typer.echo(
            f"A trial sets no baseline and no target for later runs: `retrain baseline --task {named}` measures both."
        )
    if ended.purpose == "retrain" and not (ended.decision and ended.decision.promoted):
        raise typer.Exit(NOT_PROMOTED)
