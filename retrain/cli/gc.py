"""`retrain gc`."""

from typing import TYPE_CHECKING, Annotated

import typer

from retrain.cli.options import NONE, AsJson, Overrides, open_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from retrain.records import Retention


def gc(
    task: Annotated[list[str], typer.Option("--task", "-t", help="A task's name or its file (repeatable).")],
    keep_last: Annotated[
        int,
        typer.Option(
            min=0, help="Number of newest runs that keep all files, and of newest promotions that can be rolled back."
        ),
    ] = 5,
    older_than: Annotated[
        str, typer.Option(metavar="DURATION", help="Runs that ended less than this ago keep all files: 12h, 90d, 26w.")
    ] = "90d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")] = False,
    as_json: AsJson = False,
    overrides: Overrides = NONE,
) -> None:
    """Remove models, checkpoints and learning-speed indices that no rollback, resumed run or future run needs."""
    from retrain.cli.formatting import print_record
    from retrain.errors import UserError
    from retrain.pipeline import retention
    from retrain.utils.clock import is_duration, parse_duration, utc_now

    if not is_duration(older_than):
        raise UserError(f"--older-than {older_than}: must be a duration such as 12h, 90d or 26w")
    done: list[Retention] = []
    for name in task:
        _, store = open_task(name, overrides)
        now, age = utc_now(), parse_duration(older_than)
        if dry_run:
            done.append(retention.plan_removal(store, keep_last, age, now))
        else:
            with store.lock() as ours:
                found = retention.plan_removal(ours, keep_last, age, now)
                done.append(retention.remove(ours, found, now))
    print_record(done, _retention_table, as_json)


def _retention_table(tasks: "Sequence[Retention]") -> "Table":
    """Return a table with a line for each run, drop or set of claims whose files are removed."""
    from retrain.cli.formatting import Column, grid
    from retrain.utils.text import format_bytes, pluralize

    columns = (
        Column("removed", lambda removal: removal.what, "left"),
        Column("reason", lambda removal: removal.why, "left"),
        Column("files", lambda removal: f"{len(removal.keys):,}"),
        Column("size", lambda removal: format_bytes(removal.bytes)),
    )
    table = grid(columns, [removal for task in tasks for removal in task.removals])
    kept = sum(len(task.kept) for task in tasks)
    freed = format_bytes(sum(task.bytes for task in tasks))
    is_done = all(task.is_done for task in tasks)
    caption = f"{freed} {'freed' if is_done else 'would be freed'}; {pluralize(kept, 'run')} kept whole"
    table.caption, table.min_width = caption, len(caption)
    table.caption_justify = "left"
    return table
