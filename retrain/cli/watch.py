"""`retrain watch` and `retrain notify`."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from retrain.cli.options import NONE, Device, KubeflowHost, Overrides, TaskName, TaskNames, as_overrides, open_task
from retrain.cli.output import write_utf8
from retrain.utils.logs import LOGGER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain.config.task import Task
    from retrain.pipeline.executor import Executor
    from retrain.watcher.health import Health
    from retrain.watcher.queue import EventQueue
    from retrain.watcher.task_watch import TaskWatch


TASK_FAILED = 1
"""Exit code of `--once` if a task failed. A drop that another watcher is validating is no failure."""


def watch(
    task: TaskNames,
    once: Annotated[
        bool, typer.Option("--once", help="Check the stores once, then exit. Use it in a CronJob.")
    ] = False,
    queue_url: Annotated[str | None, typer.Option(help="SQS queue with the bucket's event notifications.")] = None,
    poll_seconds: Annotated[float, typer.Option(min=0.1, help="Seconds between full listings of the stores.")] = 60,
    on: Annotated[Literal["here", "kubeflow"], typer.Option(help="Where runs train.")] = "here",
    host: KubeflowHost = None,
    schedule: Annotated[
        str | None,
        typer.Option(help="Start runs only at these times: five cron fields, in UTC (default: the task's schedule)."),
    ] = None,
    device: Device = "auto",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of /healthz, /readyz and /metrics.")] = 9110,
    listen: Annotated[str, typer.Option(help="Address to listen on. :: allows other machines.")] = "127.0.0.1",
    overrides: Overrides = NONE,
) -> None:
    """Watch the stores, and retrain when drops land."""
    from retrain.config.loading import load_tasks
    from retrain.errors import UserError
    from retrain.monitoring.web import Posts, serving, url_host
    from retrain.training.preemption import Preempted
    from retrain.watcher.health import Health, health_app
    from retrain.watcher.receiver import BODY_BYTES, PATH, TOKEN_VARIABLE, receiver_from_environment
    from retrain.watcher.watcher import Watcher

    chosen = {"--host": ("kubeflow.host", host), "--schedule": ("schedule", schedule)}
    tasks = load_tasks(task, [*overrides, *as_overrides(chosen)])
    health = Health(task.name for task in tasks)
    receiver = None if once else receiver_from_environment(tasks, health)
    if receiver and queue_url:
        raise UserError(f"--queue-url and ${TOKEN_VARIABLE} cannot be combined: pass one of them")
    inbox = _event_queue(queue_url, tasks, health) if queue_url else receiver
    watches = _make_watches(tasks, _make_executor(on, device, tasks), health, trains_here=on == "here")
    watcher = Watcher(watches, health, poll_seconds, inbox)
    posts = Posts(PATH, BODY_BYTES) if receiver else None
    try:
        if once:
            raise typer.Exit(0 if watcher.once() else TASK_FAILED)
        with serving(listen, port, health_app(health, receiver.answer if receiver else None), posts) as bound:
            what = "/healthz, /readyz, /metrics and /events" if receiver else "/healthz, /readyz and /metrics"
            LOGGER.info("serving %s on http://%s:%d/", what, url_host(listen), bound)
            watcher.run()
    except (Preempted, KeyboardInterrupt):
        LOGGER.info("stopped")


def _make_watches(
    tasks: "Sequence[Task]", executor: "Executor", health: "Health", trains_here: bool
) -> "list[TaskWatch]":
    """Return a `TaskWatch` for each task, after checking that a store supports conditional writes.

    The watcher checks the other stores again before it works on them.
    """
    from retrain.data.local_cache import cache_folder
    from retrain.watcher.probes import StoreProbes
    from retrain.watcher.task_watch import TaskWatch

    cache_dir, probes = cache_folder() if trains_here else None, StoreProbes()
    watches = [TaskWatch(task, executor, health, cache_dir=cache_dir, probes=probes) for task in tasks]
    probes.require_any((watch.task, watch.store) for watch in watches)
    return watches


def _event_queue(url: str, tasks: "Sequence[Task]", health: "Health") -> "EventQueue":
    from retrain.store.s3.sqs import SqsQueue
    from retrain.watcher.queue import EventQueue

    return EventQueue(SqsQueue(url), tasks, health)


def _make_executor(on: str, device: str, tasks: "Sequence[Task]") -> "Executor":
    if on == "kubeflow":
        from retrain.cli.pipeline import build_pipeline
        from retrain.kubeflow.submission import KubeflowExecutor, require_submittable

        for task in tasks:
            require_submittable(task)
        return KubeflowExecutor(build_pipeline)
    from retrain.monitoring.observers import observer_for_stream
    from retrain.pipeline.executor import InProcessExecutor

    return InProcessExecutor(device, observer_for_stream)


UNCONFIRMED = 1
"""Exit code if a webhook did not confirm an event. The next call sends it again."""


def notify(
    task: TaskName,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print every event of the task as a JSON line, and send nothing.")
    ] = False,
    overrides: Overrides = NONE,
) -> None:
    """Send unconfirmed events to the task's webhooks.

    The watcher does this too. If no watcher runs, run this command from cron.
    """
    from retrain.errors import TaskError
    from retrain.utils.clock import utc_now
    from retrain.utils.text import pluralize
    from retrain.watcher.notifications import collect_notifications
    from retrain.watcher.webhooks import Notifier, cloud_event

    opened, store = open_task(task, overrides)
    if dry_run:
        write_utf8()
        approvals = store.approvals.read(store.approvals.run_ids())
        quarantined = store.drops.quarantine_reports()
        for event in collect_notifications(opened, store, store.ledger.read(), approvals, quarantined, utc_now()):
            typer.echo(cloud_event(store, event).decode())
        return
    if not opened.webhooks:
        raise TaskError(f"task {opened.name} has no webhooks: add one under `webhooks` in its file")
    deliveries = Notifier(opened, store).notify()
    for webhook, delivery in zip(opened.webhooks, deliveries, strict=True):
        problem = f"; {delivery.problem}" if delivery.problem else ""
        typer.echo(f"{webhook.url}: {pluralize(delivery.confirmed, 'event')} confirmed{problem}")
    if any(delivery.problem for delivery in deliveries):
        raise typer.Exit(UNCONFIRMED)
