"""Rewrite a task file of an earlier schema version without changing its meaning.

`schema_version` rises with each change that would alter the meaning of existing files. If a file leaves out a setting
whose default has changed, the former default is written into the file. Comments and order stay.
"""

import io
from collections.abc import Mapping
from typing import Any, NamedTuple

from retrain.config.loading import parse_task
from retrain.config.task import SCHEMA_VERSION, Task
from retrain.config.validation import validate_document
from retrain.errors import TaskError
from retrain.utils.extras import import_extra

FORMER_DEFAULTS: Mapping[int, Mapping[str, Any]] = {
    1: {
        "recipe.preset": "paper",
        "recipe.objective.anchor": "start",
        "recipe.schedule.final_rate": 0,
        "training.evaluate_every": 1,
        "baseline.refresh.on_miss": True,
    },
}
"""Former defaults of settings, by the schema version that changed the defaults."""


class Migrated(NamedTuple):
    """A rewritten task file."""

    text: str
    settings: dict[str, Any]
    """Values written into the file, by dotted path."""


def migrate_task(text: str, source: str, unversioned: int | None = None) -> Migrated:
    """Return a task file in the current schema version. A file of that version is unchanged.

    `unversioned` is the version of a file without `schema_version`: 0 if it was written before task files had versions.
    Raises `TaskError`, with one line for each problem, if the file is not valid, has a later version, or has no version
    and `unversioned` is None.
    """
    version = _find_version(parse_task(text, source), source, unversioned)
    yaml = import_extra("ruamel.yaml", "Rewriting a task file").YAML()  # a round trip keeps comments and order
    yaml.preserve_quotes, yaml.width = True, 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = yaml.load(text)
    if "schema_version" in document and version == SCHEMA_VERSION:
        return Migrated(text, {})
    settings = {
        path: value
        for later in range(version + 1, SCHEMA_VERSION + 1)
        for path, value in FORMER_DEFAULTS[later].items()
        if _write(document, path, value, source)
    }
    if "schema_version" in document:
        document["schema_version"] = SCHEMA_VERSION
    else:
        document.insert(list(document).index("name"), "schema_version", SCHEMA_VERSION)
    rewritten = io.StringIO()
    yaml.dump(document, rewritten)
    parse_task(rewritten.getvalue(), source)
    return Migrated(rewritten.getvalue(), settings)


def _find_version(task: Task, source: str, unversioned: int | None) -> int:
    """Return the schema version of a task file. The caller must pass the version of a file without `schema_version`."""
    if "schema_version" in task.model_fields_set:
        return task.schema_version
    if unversioned is None:
        raise TaskError(
            f"{source}: it has no schema_version, so this command cannot tell what its defaults were: pass --from 0 if "
            f"it was written for retrain 0.1, or --from {SCHEMA_VERSION} if for a later one"
        )
    if unversioned > SCHEMA_VERSION:
        raise TaskError(f"--from {unversioned}: the newest schema version is {SCHEMA_VERSION}; pass a version up to it")
    return unversioned


def _write(document: dict[str, Any], path: str, value: object, source: str) -> bool:
    """Write a setting into a document if it is absent there and allowed. Return whether it was written."""
    *outer, name = path.split(".")
    part = document
    added: list[tuple[dict[str, Any], str]] = []
    for step in outer:
        if part.get(step) is None:
            part[step] = {}
            added.append((part, step))
        part = part[step]
    if name not in part:
        part[name] = value
        if _is_allowed(document, source):
            return True
        del part[name]
    for owner, step in reversed(added):
        del owner[step]
    return False


def _is_allowed(document: dict[str, Any], source: str) -> bool:
    """Return whether a task may have these settings. For example, most kinds of objective have no anchor."""
    try:
        validate_document(document, source)
    except TaskError:
        return False
    return True
