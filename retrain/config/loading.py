"""Find a task file by its name, read its YAML strictly, and apply overrides from the command line.

Names are looked up in the folder `$RETRAIN_TASKS`, if it is set, and then in `tasks/` of the working directory. An
installed package also has the tasks of the demo and of the studies.
"""

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import retrain
from retrain.config.task import Task
from retrain.config.validation import FieldPath, is_text_at, models_by_name_at, validate_document
from retrain.errors import TaskError
from retrain.utils.logs import LOGGER
from retrain.utils.text import did_you_mean, name_some


def own_folder(name: str) -> Path:
    """Return the folder of this name that is part of retrain: in the installed package, or in the checkout."""
    package = Path(retrain.__file__).parent
    return package / name if (package / name).is_dir() else package.parent / name


def task_folders() -> list[Path]:
    """Return the folders of the user's tasks, in the order in which names are looked up."""
    return [Path(folder) for folder in (os.environ.get("RETRAIN_TASKS"), "tasks") if folder]


def task_names() -> list[str]:
    """Return the names of all task files in the user's folders, sorted."""
    return sorted({path.stem for folder in task_folders() for path in folder.glob("*.yaml")})


def find_task(name_or_path: str) -> Path:
    """Return the file of a task. Text with a suffix or a slash is a path. Other text is a name.

    If no folder of the user has a task of this name, return the package's example of this name. Raises `TaskError` if
    there is none.
    """
    if "/" in name_or_path or Path(name_or_path).suffix:
        return Path(name_or_path)
    candidates = [folder / f"{name_or_path}.yaml" for folder in task_folders()]
    if found := next(filter(Path.is_file, candidates), None):
        return found
    tried = " or ".join(map(str, candidates))
    if (example := own_folder("tasks") / f"{name_or_path}.yaml").is_file():
        LOGGER.info("there is no %s: using the example task %s of the package", tried, name_or_path)
        return example
    raise TaskError(f"no task {name_or_path!r}: there is no {tried}{_suggest_task(name_or_path)}")


def _suggest_task(name: str) -> str:
    known = task_names()
    if not known:
        return "; `retrain task init NAME` writes one"
    return did_you_mean(name, {each: each for each in known}) or f"; known: {name_some(known)}"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader. It also refuses duplicate keys instead of silently keeping the last value.

    The loader in C (libyaml) is 8 times as fast, but 200,000 nested brackets crash the process.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"duplicate key {key.value!r}", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


# PyYAML implements YAML 1.1. There, 1e-3 (no dot) is text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


ANCHORS = ("while scanning an alias", "while scanning an anchor")
"""Contexts of PyYAML's errors if a text such as the schedule * * * * * has no quotes."""


def load_yaml(text: str, source: str) -> Any:
    """Return the document in a YAML text. Raises `TaskError` with source, line and column."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        quoted = ": put a text that begins with * or & in quotes" if error.context in ANCHORS else ""
        indented = ": indent with spaces, not with tabs" if r"'\t'" in str(error.problem) else ""
        raise TaskError(f"{source}: {place}{error.problem}{quoted}{indented}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2026-02-31
        raise TaskError(f"{source}: {str(error).splitlines()[0]}") from None


Document = dict[Any, Any]


class Override(NamedTuple):
    """One field's new value."""

    path: FieldPath
    value: Any
    origin: str = "--set"
    """The option that set the value. Messages name it."""


def parse_override(text: str) -> Override:
    """Return the override in a string of the form `path=value`. Raises `TaskError` for other strings.

    YAML reads digits as a number. For a field that holds text, the value stays as it was written.
    """
    path, equals, value = text.partition("=")
    steps = tuple(path.split("."))
    if not equals or not all(steps):
        raise TaskError(f"--set {text}: must be FIELD=VALUE, such as recipe.schedule.scale=0.5")
    read = load_yaml(value, f"--set {path}")
    is_scalar = not isinstance(read, str | list | dict | None)
    return Override(steps, value.strip() if is_scalar and is_text_at(steps) else read)


def apply_overrides(document: Document, overrides: Iterable[Override]) -> Document:
    """Return the document with all overrides applied.

    If an override changes a part's `name` or `kind`, the fields that the new kind lacks are removed first, whatever the
    order of the overrides.
    """
    overrides = list(overrides)
    return reduce(_put, overrides, reduce(_change_kind, overrides, document))


def _put(document: Document, override: Override) -> Document:
    (step, *rest), value, _ = override
    if rest:
        inner = document.get(step)
        value = _put(inner if isinstance(inner, dict) else {}, Override(tuple(rest), value))
    return document | {step: value}


def _change_kind(document: Document, override: Override) -> Document:
    *path, last = override.path
    options = models_by_name_at(tuple(path)) if last in ("name", "kind") else {}
    part: Any = document
    for step in path:
        part = part.get(step) if isinstance(part, dict) else None
    chosen = options.get(str(override.value))
    if not isinstance(part, dict) or chosen is None:
        return document
    foreign = {field for kind in options.values() for field in kind.model_fields} - chosen.model_fields.keys()
    return _put(document, Override(tuple(path), {key: part[key] for key in part if key not in foreign}))


def load_task(name_or_path: str, overrides: Sequence[str | Override] = ()) -> Task:
    """Read a task and check it.

    `name_or_path` is a path if it has a suffix or a slash. Otherwise it is a name, looked up in the folder
    `$RETRAIN_TASKS` (if set) and then in `tasks/` of the working directory. `overrides` are strings such as
    `recipe.schedule.scale=0.5`, or parsed overrides. Raises `TaskError` with one line for each problem.
    """
    path = find_task(name_or_path)
    settings = [parse_override(given) if isinstance(given, str) else given for given in overrides]
    task = validate_document(
        apply_overrides(_mapping(read_task_text(path), str(path)), settings),
        str(path),
        {setting.path: setting.origin for setting in settings},
    )
    texts = [f"--set {shlex.quote(given)}" for given in overrides if isinstance(given, str)]
    _GIVEN[task.name] = " ".join([shlex.quote(name_or_path), *texts])
    return task


def load_tasks(names_or_paths: Sequence[str], overrides: Sequence[str | Override] = ()) -> list[Task]:
    """Read several tasks with `load_task`. Raises `TaskError` if two have the same name.

    Metrics and pages tell tasks apart by their names, and would add the savings of such tasks twice.
    """
    tasks = [load_task(given, overrides) for given in names_or_paths]
    given_as: dict[str, str] = {}
    for task, given in zip(tasks, names_or_paths, strict=True):
        if task.name in given_as:
            both = f"--task {shlex.quote(given_as[task.name])} and --task {shlex.quote(given)}"
            raise TaskError(f"{both} have the same name, {task.name}: pass each task once, and rename one of two tasks")
        given_as[task.name] = given
    return tasks


_GIVEN: dict[str, str] = {}
"""The text that the user passed with `--task` for each task, and the `--set` options, by the task's name."""


def task_argument(name: str) -> str:
    """Return the text to write after `--task` in a command that a message suggests.

    It ends with the user's `--set` options, because one of them may choose another store.
    """
    return _GIVEN.get(name) or shlex.quote(name)


def parse_task(text: str, source: str) -> Task:
    """Return the task in a YAML or JSON text. Raises `TaskError` with `source` as the name of the text."""
    return validate_document(_mapping(text, source), source)


def read_task_text(path: Path) -> str:
    """Return the text of a task file. Raises `TaskError` if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise TaskError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TaskError(f"{path}: cannot be read: not a text file in UTF-8") from None


def _mapping(text: str, source: str) -> Document:
    document = load_yaml(text, source)
    if not isinstance(document, dict):
        raise TaskError(f"{source}: must be a mapping of fields, such as 'name: flowers'")
    return document
