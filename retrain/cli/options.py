"""Define the options that several commands share, and resolve them."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrain.cli.output import write_utf8
from retrain.errors import UserError

if TYPE_CHECKING:
    from retrain.config.loading import Override
    from retrain.config.task import Task
    from retrain.store.task_store import TaskStore


def _complete_task(incomplete: str) -> list[str]:
    """Return the names that the shell offers after `--task`."""
    from retrain.config.loading import task_names

    return [name for name in task_names() if name.startswith(incomplete)]


TaskName = Annotated[
    str,
    typer.Option(
        "--task",
        "-t",
        envvar="RETRAIN_TASK",
        autocompletion=_complete_task,
        help="A task's name (looked up in $RETRAIN_TASKS, then in tasks/) or its file.",
    ),
]
TaskNames = Annotated[
    list[str],
    typer.Option(
        "--task",
        "-t",
        envvar="RETRAIN_TASK",
        autocompletion=_complete_task,
        help="A task's name or its file (repeatable). The variable may name several tasks, separated by spaces.",
    ),
]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Override a setting, as in recipe.schedule.scale=0.5 (repeatable)."
    ),
]
NONE: list[str] = []
"""Default of options that may be given several times."""


def _prepare_json(wanted: bool) -> bool:
    if wanted:
        write_utf8()
    return wanted


AsJson = Annotated[bool, typer.Option("--json", callback=_prepare_json, help="Print JSON for programs.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto uses a GPU if there is one.")]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        envvar="RETRAIN_METRICS_PORT",
        min=1,
        max=65535,
        help="Serve /metrics on this port while training (default: off).",
    ),
]
MetricsHost = Annotated[
    str, typer.Option(envvar="RETRAIN_METRICS_HOST", help="Address of --metrics-port. :: allows other machines.")
]
KubeflowHost = Annotated[
    str | None, typer.Option("--host", help="Address of Kubeflow Pipelines (default: kubeflow.host of the task).")
]
Author = Annotated[
    str | None, typer.Option(envvar="RETRAIN_AUTHOR", help="Name of the person who decides (default: the login name).")
]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask for confirmation. Without a terminal, no command asks.")
]
RunId = Annotated[str, typer.Argument(help="A run's id, as `retrain history` shows it.")]


def as_overrides(options: Mapping[str, tuple[str, object]]) -> "list[Override]":
    """Return the fields that options set, as overrides.

    `options` maps an option to a field and its value. The value is None if the option was not passed.
    """
    from retrain.config.loading import Override

    return [
        Override(tuple(field.split(".")), value, option)
        for option, (field, value) in options.items()
        if value is not None
    ]


def open_task(name: str, overrides: "Sequence[str | Override]" = ()) -> "tuple[Task, TaskStore]":
    """Return a task and its part of the store."""
    from retrain.config.loading import load_task
    from retrain.store.task_store import open_task_store

    task = load_task(name, overrides)
    return task, open_task_store(task)


@contextmanager
def output_errors(output: Path, option: str = "--output") -> Iterator[None]:
    """Raise `UserError`, with the reason, if an output cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{option} {output}: cannot be written: {error.strerror}") from error


def confirm(question: str, yes: bool) -> None:
    """Ask for confirmation at a terminal, unless `yes` is set. A script has no terminal, so it is not asked."""
    if not yes and sys.stdin.isatty():
        typer.confirm(question, abort=True)


def decide_author(given: str | None) -> str:
    """Return the given name, or the login name. Raises `UserError` if there is neither."""
    try:
        return given or getuser()
    except (KeyError, OSError) as error:  # a container's uid need not have a name
        raise UserError("the system has no name for this user: pass --author or set RETRAIN_AUTHOR") from error
