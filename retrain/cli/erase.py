"""`retrain drop erase`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrain.cli.options import (
    NONE,
    AsJson,
    Author,
    Overrides,
    TaskName,
    Yes,
    confirm,
    decide_author,
    open_task,
)
from retrain.utils.text import pluralize

if TYPE_CHECKING:
    from retrain.config.task import Task
    from retrain.data.finding import Selection
    from retrain.pipeline.erasure import ErasureResult

NO_PATHS: list[Path] = []


def erase(
    task: TaskName,
    image: Annotated[
        list[Path], typer.Option(help="An image file. All samples with the same content are erased (repeatable).")
    ] = NO_PATHS,
    content: Annotated[list[str], typer.Option(help="A content digest, in hex (repeatable).")] = NONE,
    key: Annotated[list[str], typer.Option(help="A sample's key (repeatable).")] = NONE,
    drop: Annotated[str, typer.Option(help="The drop of --key, if several drops have that key.")] = "",
    listed: Annotated[
        Path | None, typer.Option("--list", help="CSV or JSON lines with the columns drop, key and content.")
    ] = None,
    reason: Annotated[
        str, typer.Option(help="The reason, recorded in the erasure's record. Do not name a person in it.")
    ] = "",
    author: Author = None,
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be erased, and change nothing.")] = False,
    as_json: AsJson = False,
    overrides: Overrides = NONE,
) -> None:
    """Erase samples permanently from shards, uploads, lists, thumbnails and caches. This cannot be undone.

    If no option selects a sample, complete interrupted erasures and remove erased samples from this machine's cache.
    """
    from retrain.cli.drop_tables import erasure_details
    from retrain.cli.formatting import print_record
    from retrain.data.finding import Selection
    from retrain.data.local_cache import cache_folder
    from retrain.errors import UserError
    from retrain.pipeline import erasure

    if drop and not key:
        raise UserError(
            f"--drop {drop} needs --key: it selects the drop in which --key is looked up. To erase all samples of a "
            "drop, list them in a table and pass it with --list"
        )
    opened, store = open_task(task, overrides)
    named = [Selection("--content", "", "", one) for one in content]
    named += [Selection("--key", drop, one, "") for one in key]
    selections = [*named, *_read_selections(opened, image, listed)]
    by = decide_author(author)
    if selections:
        planned = erasure.plan_erasure(selections, opened, store, by, reason)
        if dry_run or not as_json:
            print_record(planned, erasure_details, as_json)
        if dry_run:
            if not as_json:
                typer.echo("dry run: nothing was erased")
            return
        confirm(f"Erase {pluralize(len(planned.samples), 'sample')} of {store.task} permanently?", yes)
    erased = erasure.erase(selections, opened, store, cache_folder(), by, reason)
    _print_erased(erased, as_json)


def _read_selections(task: "Task", images: list[Path], listed: Path | None) -> "list[Selection]":
    from retrain.data.erasing import select_image, select_listed

    shown = [select_image(path, task.data.frame) for path in images]
    return [*shown, *(select_listed(listed) if listed else ())]


def _print_erased(erased: "ErasureResult", as_json: bool) -> None:
    """Print what was erased, and exit with 1 if some objects of the store could not be searched."""
    from retrain.cli.drop_tables import erasure_details
    from retrain.cli.formatting import print_record

    if as_json:
        print_record(list(erased.erasures), erasure_details, as_json)
    else:
        for one in erased.erasures:
            typer.echo(f"erasure {one.sequence}: {pluralize(len(one.samples), 'sample')} erased")
        if not erased.erasures:
            typer.echo("nothing to erase")
        for object_key in erased.deleted:
            typer.echo(f"deleted: {object_key}")
    for name_and_cause in (problem.rstrip(".") for problem in erased.unread):
        typer.echo(
            f"could not be searched: {name_and_cause}. If erased samples remain there, remove these samples by hand, "
            "or upload the drop again",
            err=True,
        )
    if erased.unread:
        raise typer.Exit(1)
