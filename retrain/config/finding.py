"""Find task files by name: in the folder `$RETRAIN_TASKS`, where set, and then in `tasks/` of the working directory."""

import os
from pathlib import Path

from retrain.errors import TaskError
from retrain.utils.text import did_you_mean


def task_folders() -> list[Path]:
    """Return the folders that names are looked up in, in their order."""
    return [Path(folder) for folder in (os.environ.get("RETRAIN_TASKS"), "tasks") if folder]


def task_names() -> list[str]:
    """Return the names of all task files in the folders, sorted."""
    return sorted({path.stem for folder in task_folders() for path in folder.glob("*.yaml")})


def find_task(name_or_path: str) -> Path:
    """Return the file of a task: a path if it has a suffix or a slash; else a name, looked up in the folders.

    Raises `TaskError` if no folder has a file of that name.
    """
    if "/" in name_or_path or Path(name_or_path).suffix:
        return Path(name_or_path)
    candidates = [folder / f"{name_or_path}.yaml" for folder in task_folders()]
    if found := next(filter(Path.is_file, candidates), None):
        return found
    tried = " or ".join(map(str, candidates))
    known = {name: name for name in task_names()}
    raise TaskError(f"no task {name_or_path!r}: there is no {tried}{did_you_mean(name_or_path, known)}")
