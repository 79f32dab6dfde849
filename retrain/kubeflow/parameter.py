"""The task as a parameter of the pipeline: a JSON object (Kubeflow's STRUCT). Imports no kfp.

Kubeflow stores the object in protobuf's Struct. There all numbers are doubles. A step may get 16.0 for 16 (from kfp on
one machine) or 16 for 16.0 (from Kubeflow's launcher). So every whole number is read as an integer, and becomes a float
again in the fields that have floats. Only `model.options` can have both kinds. There, a whole number must be an
integer.
"""

import json
from collections.abc import Iterator
from typing import Any

from retrain.config.loading import parse_task
from retrain.config.task import Task
from retrain.config.validation import validate_document
from retrain.errors import TaskError

Parameter = str | dict[str, Any]
"""The task in the form in which a step gets it: a STRUCT, or a text of JSON. Steps of studies, steps of pipelines of
version 0.1, and processes that torchrun starts get a text."""

LAST_CHARACTER = "\uffff"
"""The last character that Kubeflow can store. Its connection to MySQL uses at most 3 bytes of UTF-8 for a character."""

SOURCE = "the pipeline's parameter task"


def write_parameter(task: Task) -> dict[str, Any]:
    """Return a task as a STRUCT, without fields that are null, because kfp cannot pass null.

    Raises `TaskError` if a step would read a different task.
    """
    document = task.model_dump(mode="json", exclude_none=True)
    read = read_parameter(json.loads(json.dumps(document), parse_int=float))
    changes = list(_changes(task.model_dump(mode="json"), read.model_dump(mode="json")))
    if changes:
        raise TaskError("\n".join(f"{task.name}: {change}" for change in changes))
    return document


def _changes(before: Any, after: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield a message for each value of a task that differs from what a step reads."""
    if isinstance(before, dict):
        for key, value in before.items():
            yield from _changes(value, after[key], (*path, key))
    elif isinstance(before, list):
        for number, pair in enumerate(zip(before, after, strict=True)):
            yield from _changes(*pair, (*path, str(number)))
    elif repr(before) != repr(after):
        yield (
            f"{'.'.join(path)}: {before!r} would arrive as {after!r} in the pipeline's steps, because Kubeflow passes "
            f"numbers as doubles. Write {after!r}"
        )


def require_storable(task: Task) -> None:
    """Raise a `TaskError` if Kubeflow cannot store one of the task's strings.

    With such a string, Kubeflow would create the workflow, but answer with an error and not list the run.
    """
    refused = [
        f"{task.name}: {field}: Kubeflow's database cannot store {max(text)!r}. Use characters up to U+FFFF"
        for field, text in _texts(task.model_dump(mode="json"))
        if max(text, default="") > LAST_CHARACTER
    ]
    if refused:
        raise TaskError("\n".join(refused))


def _texts(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield each string of a document with its field. Keys are strings too."""
    match value:
        case str():
            yield ".".join(path), value
        case dict():
            for key, inner in value.items():
                yield ".".join((*path, key)), key
                yield from _texts(inner, (*path, key))
        case list():
            for number, inner in enumerate(value):
                yield from _texts(inner, (*path, str(number)))


def read_parameter(parameter: Parameter) -> Task:
    """Return the task of a pipeline's parameter. Raises `TaskError`."""
    if isinstance(parameter, str):
        return parse_task(parameter, SOURCE)
    return validate_document(restore_integers(parameter), SOURCE)


def restore_integers(value: Any) -> Any:
    """Return JSON in which every float without a fraction, at any depth, is replaced by an integer."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: restore_integers(inner) for key, inner in value.items()}
        case list():
            return [restore_integers(inner) for inner in value]
    return value
