"""`retrain drop`."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrain.cli.erase import erase
from retrain.cli.options import (
    NONE,
    AsJson,
    Author,
    Device,
    Overrides,
    TaskName,
    as_overrides,
    decide_author,
    open_task,
)
from retrain.errors import DropError
from retrain.utils.text import pluralize

if TYPE_CHECKING:
    from retrain.data.committing import Packed
    from retrain.data.staging import Staging


app = typer.Typer(no_args_is_help=True)
app.command()(erase)


@app.command()
def pack(
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder of images, an archive of such a folder (tar, tar.gz, zip), or a table of labels."
        ),
    ],
    task: TaskName,
    label_from: Annotated[
        str | None,
        typer.Option(
            help="Source of the labels: folder, cls, txt, json:FIELD or csv (default: data.label_from of the task)."
        ),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Split into drops by class: 70+30 makes drops of 70 and of 30 classes.")
    ] = None,
    share: Annotated[
        str | None, typer.Option(help="Split into drops by share of the samples, in percent: 50+50 makes two halves.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split into drops.")] = 0,
    part: Annotated[int | None, typer.Option(help="Commit only this drop of the split; 1 is the first.")] = None,
    drop_id: Annotated[str | None, typer.Option("--id", help="The drop's id (default: from its digest).")] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Read and check everything, show what would be committed, and write nothing."),
    ] = False,
    overrides: Overrides = NONE,
) -> None:
    """Turn labelled images into a drop and commit it."""
    from retrain.data.packing import pack as commit

    chosen = as_overrides({"--label-from": ("data.label_from", label_from)})
    opened, store = open_task(task, [*overrides, *chosen])
    staging = _parse_staging(classes, share, seed)
    for packed in commit(
        source, opened, store, staging=staging, part=part, drop_id=drop_id, dry_run=dry_run, tell=typer.echo
    ):
        if dry_run:
            _preview(packed)
        else:
            _print_packed(packed)


def _print_packed(packed: "Packed") -> None:
    """Print a drop's id and numbers, and how many files of its source are not samples."""
    from retrain.cli.drop_tables import samples

    drop = packed.drop
    if packed.amendment and not packed.new:
        typer.echo("no image is new, so no drop is committed; the next run uses the amendment")
        return
    already = "" if packed.new else " (already committed)"
    typer.echo(f"{drop.id}: {pluralize(len(drop.classes), 'class')}, {samples(drop)}{already}")
    if (reading := drop.reading) and reading.not_samples:
        counted = ", ".join(f"{count:,} {kind}" for kind, count in reading.not_samples.items())
        typer.echo(f"skipped, because they are not samples: {counted}")


def _preview(packed: "Packed") -> None:
    """Print the manifest that would be committed, the samples of each class, and whether it would be refused.

    A refused drop without new images has no manifest.
    """
    from retrain.cli.drop_tables import class_table, drop_details
    from retrain.cli.formatting import print_tables

    drop = packed.drop
    if packed.new or not packed.refusal:
        print_tables(drop_details(drop, is_committed=not packed.new))
        print_tables(class_table(drop))
    if packed.refusal:
        typer.echo(f"would be refused: {packed.refusal}")
        raise typer.Exit(2)
    if packed.amendment:
        typer.echo(f"would write {packed.amendment}")
    if packed.new or packed.amendment is None:
        typer.echo(f"would be committed as {drop.id}" if packed.new else f"is already committed as {drop.id}")


def _parse_staging(classes: str | None, share: str | None, seed: int) -> "Staging | None":
    from retrain.data.staging import Staging

    if classes is not None and share is not None:
        raise DropError("--classes and --share cannot be combined: pass one of them")
    if classes is not None:
        return Staging.parse("classes", classes, seed)
    return Staging.parse("share", share, seed) if share is not None else None


@app.command("list")
def list_(task: TaskName, as_json: AsJson = False, overrides: Overrides = NONE) -> None:
    """List the committed drops in the order of their commits."""
    from retrain.cli.drop_tables import drop_table
    from retrain.cli.formatting import print_record

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
    from retrain.cli.drop_tables import drop_details
    from retrain.cli.formatting import print_record

    _, store = open_task(task, overrides)
    drift = store.drifts.of(store.champion.read().run_id).get(drop)
    cause = store.drops.quarantine_cause(drop)
    print_record(store.drops.read(drop), partial(drop_details, drift=drift, quarantine=cause), as_json)


@app.command()
def drift(task: TaskName, device: Device = "auto", as_json: AsJson = False, overrides: Overrides = NONE) -> None:
    """Measure whether the waiting drops' images differ from the champion's held-out images."""
    from retrain.pipeline.context import make_context
    from retrain.pipeline.drift import measure_drifts

    opened, store = open_task(task, overrides)
    drifts = measure_drifts(make_context(store, opened, device), opened)
    if as_json:
        typer.echo(json.dumps([one.model_dump(mode="json") for one in drifts], indent=2))
    elif not drifts:
        typer.echo("no waiting drop has validation or test images")
    for one in () if as_json else drifts:
        typer.echo(str(one))


@app.command()
def amend(
    corrections: Annotated[
        Path,
        typer.Argument(
            help="CSV or JSON lines with the columns key or content, class or remove (yes), reason, and author."
        ),
    ],
    task: TaskName,
    author: Author = None,
    overrides: Overrides = NONE,
) -> None:
    """Correct or remove samples of committed drops. Earlier runs do not change. The next run uses the corrections."""
    from retrain.data.amending import amend_drops, name_author, read_corrections

    opened, store = open_task(task, overrides)
    known = {name for drop in store.drops.readable() for name in drop.classes}
    found = name_author(read_corrections(corrections), lambda: decide_author(author))
    amendment = amend_drops(found, opened, store)
    if amendment is None:
        typer.echo("nothing to amend: the samples already have these corrections")
        return
    removed = sum(change.after is None for change in amendment.changes)
    relabelled = pluralize(len(amendment.changes) - removed, "sample")
    typer.echo(f"amendment {amendment.sequence}: {relabelled} with another class, {removed:,} removed")
    if new := sorted({change.after for change in amendment.changes if change.after} - known):
        typer.echo(f"new classes that no drop had: {', '.join(new)}; if one is misspelt, amend its samples again")
