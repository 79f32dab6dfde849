"""Task files by name or path."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retrain.config import Task
from retrain.errors import TaskError
from retrain.tasks.overrides import apply, parse
from retrain.tasks.problems import check, did_you_mean
from retrain.tasks.strict_yaml import load_yaml


def load_task(name_or_path: str, overrides: Sequence[str] = ()) -> Task:
    """Read a task and check it.

    `name_or_path` is a path if it has a suffix or a slash; else a name, looked up in the folder `$RETRAIN_TASKS`
    (where set) and then in `tasks/` of the working directory. `overrides` are `path=value`, as in
    `recipe.schedule.scale=0.5` (see `retrain.tasks.overrides`). Raises `TaskError`, one line for every problem.
    """
    path = _find(name_or_path)
    settings = [parse(override) for override in overrides]
    return check(apply(_read(path), settings), str(path), [setting.path for setting in settings])


def parse_task(text: str, source: str) -> Task:
    """Return the task that YAML or JSON text states. Raises `TaskError`, in which `source` names the text."""
    return check(_mapping(text, source), source)


def _find(name_or_path: str) -> Path:
    if "/" in name_or_path or Path(name_or_path).suffix:
        return Path(name_or_path)
    folders = [Path(folder) for folder in (os.environ.get("RETRAIN_TASKS"), "tasks") if folder]
    candidates = [folder / f"{name_or_path}.yaml" for folder in folders]
    if found := next(filter(Path.is_file, candidates), None):
        return found
    known = {path.stem: path.stem for folder in folders for path in folder.glob("*.yaml")}
    tried = " or ".join(map(str, candidates))
    raise TaskError(f"no task {name_or_path!r}: there is no {tried}{did_you_mean(name_or_path, known)}")


def _read(path: Path) -> dict[Any, Any]:
    try:
        return _mapping(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise TaskError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TaskError(f"{path}: cannot be read: not a text file in UTF-8") from None


def _mapping(text: str, source: str) -> dict[Any, Any]:
    document = load_yaml(text, source)
    if not isinstance(document, dict):
        raise TaskError(f"{source}: must be a mapping of fields, such as 'name: flowers'")
    return document
