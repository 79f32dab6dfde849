"""`retrain drop`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrain.cli.options import NONE, AsJson, Overrides, TaskName, open_task
from retrain.errors import DropError
from retrain.utils.text import pluralize

if TYPE_CHECKING:
    from retrain.data.staging import Staging


app = typer.Typer(no_args_is_help=True)


@app.command()
def pack(
    source: Annotated[
        Path, typer.Argument(help="An image folder class/name.png, with or without train/ val/ test/, or a tar of it.")
    ],
    task: TaskName,
    classes: Annotated[str | None, typer.Option(help="Stage by classes: 70+30 makes two drops.")] = None,
    share: Annotated[str | None, typer.Option(help="Stage by share of the samples: 50+50 makes two drops.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the staging.")] = 0,
    part: Annotated[int | None, typer.Option(help="Commit only this part, counted from 1.")] = None,
    drop_id: Annotated[str | None, typer.Option("--id", help="The drop's id; from its digest if absent.")] = None,
    overrides: Overrides = NONE,
) -> None:
    """Turn labelled images into a drop and commit it."""
    from retrain.cli.formatting import samples
    from retrain.data.packing import pack as commit

    opened, store = open_task(task, overrides)
    for packed in commit(source, opened, store, staging=_staging(classes, share, seed), part=part, drop_id=drop_id):
        drop = packed.drop
        was_there = "" if packed.new else " (was there already)"
        typer.echo(f"{drop.id}: {pluralize(len(drop.classes), 'class')}, {samples(drop)}{was_there}")


def _staging(classes: str | None, share: str | None, seed: int) -> "Staging | None":
    from retrain.data.staging import Staging

    if classes is not None and share is not None:
        raise DropError("--classes and --share exclude each other")
    if classes is not None:
        return Staging.parse("classes", classes, seed)
    return Staging.parse("share", share, seed) if share is not None else None


@app.command("list")
def list_(task: TaskName, as_json: AsJson = False, overrides: Overrides = NONE) -> None:
    """List the committed drops in the order of their commits."""
    from retrain.cli.formatting import drop_table, print_record

    _, store = open_task(task, overrides)
    drops = store.drops.readable()
    print_record(list(drops), drop_table, as_json)


@app.command("show")
def show_(
    drop: Annotated[str, typer.Argument(help="A drop's id, as `retrain drop list` shows it.")],
    task: TaskName,
    as_json: AsJson = False,
    overrides: Overrides = NONE,
) -> None:
    """Show a drop's manifest."""
    from retrain.cli.formatting import drop_details, print_record

    _, store = open_task(task, overrides)
    print_record(store.drops.read(drop), drop_details, as_json)
