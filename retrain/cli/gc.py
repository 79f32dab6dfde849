"""`retrain gc`."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from retrain.cli.options import NONE, AsJson, Overrides, open_task

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta
    from pathlib import Path

    from rich.table import Table

    from retrain.records import Retention
    from retrain.store.task_store import TaskStore


def gc(
    task: Annotated[list[str], typer.Option("--task", "-t", help="A task's name or its file (repeatable).")],
    keep_last: Annotated[
        int,
        typer.Option(
            min=0, help="Number of newest runs that keep all files, and of newest promotions that a rollback can undo."
        ),
    ] = 5,
    older_than: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="Keep files of younger runs, and cached files used within this time. Examples: 30m, 12h, 90d, 26w.",
        ),
    ] = "90d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")] = False,
    as_json: AsJson = False,
    overrides: Overrides = NONE,
) -> None:
    """Remove models, checkpoints and learning-speed indices that no rollback, resumed run or future run needs.

    Also remove this machine's cached files that no run of these tasks needs and that were unused for --older-than.
    """
    from retrain.cli.formatting import print_record
    from retrain.errors import UserError
    from retrain.pipeline import cache_retention
    from retrain.utils.clock import DURATION_WORDS, is_duration, parse_duration, utc_now

    if not is_duration(older_than):
        raise UserError(f"--older-than {older_than}: must be {DURATION_WORDS}")
    opened = [open_task(name, overrides) for name in task]
    now, age = utc_now(), parse_duration(older_than)
    done: list[Retention] = []
    failed: list[UserError] = []
    for _, store in opened:
        try:
            done.append(_clean_store(store, keep_last, age, now, dry_run))
        except UserError as error:  # continue with the other tasks
            failed.append(error)
    if not failed and (folder := _find_cache()) is not None:  # all stores must be read to find the needed files
        clean = cache_retention.plan_removal if dry_run else cache_retention.remove
        done.append(clean(folder, opened, age, now))
    if done:
        print_record(done, _retention_table, as_json)
    if failed:
        raise UserError("\n".join(map(str, failed)))


def _clean_store(store: "TaskStore", keep_last: int, age: "timedelta", now: "datetime", dry_run: bool) -> "Retention":
    """Remove files that the store no longer needs. With `dry_run`, only list them. Raises `UserError`."""
    from retrain.pipeline import retention

    with nullcontext(store) if dry_run else store.lock() as opened:
        found = retention.plan_removal(opened, keep_last, age, now)
        return found if dry_run else retention.remove(opened, found, now)


def _find_cache() -> "Path | None":
    """Return the cache folder. None if it does not exist, or if there is no home directory for it."""
    from retrain.data.local_cache import cache_folder
    from retrain.errors import UserError

    try:
        folder = cache_folder()
    except UserError:  # without a home directory, nothing was cached
        return None
    return folder if folder.is_dir() else None


def _retention_table(tasks: "Sequence[Retention]") -> "Table":
    """Return a table with a line for each run, drop or cache whose files are removed.

    One more line is about the removed claims. A claim is a small file that assigns a drop to a run.
    """
    from retrain.cli.formatting import Column, grid
    from retrain.utils.text import format_bytes, pluralize

    columns = (
        Column("removed", lambda removal: removal.what, "left"),
        Column("reason", lambda removal: removal.why, "left"),
        Column("files", lambda removal: f"{len(removal.keys):,}"),
        Column("size", lambda removal: format_bytes(removal.bytes)),
    )
    table = grid(columns, [removal for task in tasks for removal in task.removals])
    table.show_header = bool(table.rows)
    kept = sum(len(task.kept) for task in tasks if task.task)
    freed = format_bytes(sum(task.bytes for task in tasks))
    is_done = all(task.is_done for task in tasks)
    caption = f"{freed} {'freed' if is_done else 'would be freed'}; {pluralize(kept, 'run')} kept with all files"
    for folder, why in (in_use for task in tasks if not task.task for in_use in task.kept.items()):
        caption += f"\nnothing removed from {folder}: {why}"
    table.caption, table.min_width = caption, max(table.min_width or 0, *map(len, caption.splitlines()))
    table.caption_justify = "left"
    return table
