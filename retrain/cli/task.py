"""`retrain task`."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from retrain.cli.options import output_errors
from retrain.errors import TaskError

app = typer.Typer(no_args_is_help=True)


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="The new task's name: lower-case letters, digits and hyphens.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write (default: tasks/NAME.yaml).")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Write every setting, with its description.")] = False,
) -> None:
    """Write a task file to start from, and its schema. Editors complete and check the file by this schema."""
    from retrain.config.template import SCHEMA_FILE, short_template, task_schema, task_template

    path = output or Path("tasks") / f"{name}.yaml"
    text = task_template(name) if full else short_template(name)
    with output_errors(path):
        with suppress(FileExistsError):  # if a file is in the folder's place, `open` names the problem
            path.parent.mkdir(parents=True)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError as error:
            raise TaskError(f"{path} already exists: remove it or pass another --output") from error
        if not full:
            (path.parent / SCHEMA_FILE).write_text(json.dumps(task_schema(), indent=2) + "\n", encoding="utf-8")
    named = path if path.suffix or "/" in str(path) else f"./{path}"  # without a slash it would be a task's name
    typer.echo(f"wrote {path}; next: edit it, then `retrain task check {named}`")


@app.command()
def check(file: Annotated[str, typer.Argument(help="A task's file or name.")]) -> None:
    """Check a task file, and list its problems by field with the allowed values."""
    from retrain.config.loading import load_task
    from retrain.store import parse_store_address

    task = load_task(file)
    parse_store_address(task.store, task.endpoint_url)
    typer.echo(f"{file}: task {task.name} is valid; `retrain doctor` also tries its network and its store")


@app.command()
def migrate(
    file: Annotated[str, typer.Argument(help="A task's file or name.")],
    unversioned: Annotated[
        int | None,
        typer.Option("--from", min=0, help="Version of a file without schema_version: 0 if written for retrain 0.1."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would change, and write nothing.")] = False,
) -> None:
    """Rewrite a task file of an earlier version without changing its meaning. Comments stay."""
    import shutil
    from difflib import unified_diff

    from retrain.config.loading import find_task, read_task_text
    from retrain.config.migration import migrate_task
    from retrain.utils.files import temp_file

    path = find_task(file)
    before = read_task_text(path)
    migrated = migrate_task(before, str(path), unversioned)
    if migrated.text == before:
        typer.echo(f"{path} already has the current version")
        return
    if dry_run:
        lines = unified_diff(before.splitlines(), migrated.text.splitlines(), str(path), str(path), lineterm="")
        typer.echo("\n".join(lines))
        return
    with output_errors(path, "FILE"), temp_file(lambda file: file.write(migrated.text.encode()), path.parent) as new:
        shutil.copymode(path, new)
        new.replace(path)
    for setting, value in migrated.settings.items():
        typer.echo(f"{setting}: {json.dumps(value)} is now in the file, because its default has changed")
    typer.echo(f"rewrote {path}; `retrain task check {path}` checks it")


@app.command()
def schema() -> None:
    """Print the JSON schema of task files."""
    from retrain.config.template import task_schema as json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
