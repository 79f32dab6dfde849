"""`retrain notify`: tell webhooks without a watcher, and see what they are told."""

from typing import Annotated

import typer

from retrain.cli.options import NONE, Overrides, TaskName, open_task

REFUSED = 1
"""Exit code where a webhook did not confirm an event; the next call sends it again."""


def notify(
    task: TaskName,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print every event of the task as a line of JSON, and send nothing.")
    ] = False,
    overrides: Overrides = NONE,
) -> None:
    """Send the task's webhooks what they have not confirmed yet: for cron, where no watcher runs."""
    from retrain.errors import TaskError
    from retrain.utils.clock import utc_now
    from retrain.utils.text import pluralize
    from retrain.watcher.notifications import collect_notifications
    from retrain.watcher.webhooks import Notifier, cloud_event

    opened, store = open_task(task, overrides)
    if dry_run:
        for event in collect_notifications(opened, store, store.ledger.read(), utc_now()):
            typer.echo(cloud_event(store, event).decode())
        return
    if not opened.webhooks:
        raise TaskError(f"task {opened.name} has no webhooks: add one to its file")
    deliveries = Notifier(opened, store).notify()
    for webhook, delivery in zip(opened.webhooks, deliveries, strict=True):
        problem = f"; {delivery.problem}" if delivery.problem else ""
        typer.echo(f"{webhook.url}: {pluralize(delivery.confirmed, 'event')} confirmed{problem}")
    if any(delivery.problem for delivery in deliveries):
        raise typer.Exit(REFUSED)
