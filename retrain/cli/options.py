"""Options that several commands share, and what they stand for."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrain.errors import UserError
from retrain.layout import Layout

if TYPE_CHECKING:
    import torch

    from retrain.config import Task
    from retrain.context import Context
    from retrain.store.base import Store

TaskName = Annotated[
    str, typer.Option("--task", "-t", help="A task's name (looked up in tasks/ or $RETRAIN_TASKS) or its file.")
]
Overrides = Annotated[
    list[str], typer.Option("--set", help="Override a field: --set recipe.schedule.scale=0.5 (repeatable).")
]
NONE: list[str] = []
"""No overrides."""
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")]
RunId = Annotated[str, typer.Argument(help="A run's id, as `retrain history` shows it.")]


def open_task(name: str, overrides: Sequence[str] = ()) -> "tuple[Task, Store, Layout]":
    """Return a task, its store and the layout of its objects there."""
    from retrain.store import open_store
    from retrain.tasks import load_task

    task = load_task(name, overrides)
    return task, open_store(task.store, task.endpoint_url), Layout(task.name)


def make_context(store: "Store", layout: Layout, device: str) -> "Context":
    """Return where stages work, on a device, watched on this terminal."""
    from retrain.context import Context
    from retrain.observe.watchers import for_stream

    return Context(store, layout, pick_device(device), cache_folder(), for_stream())


def cache_folder() -> Path:
    """Return where decoded drops are kept: $RETRAIN_CACHE, or retrain/ in the user's cache folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("RETRAIN_CACHE") or home / "retrain")


def pick_device(name: str) -> "torch.device":
    """Return the named device. Raises `UserError` if it is not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}; allowed: auto, cpu, cuda, cuda:N") from error
    return device
