"""The tree of a task's fields, as its models declare it.

A field holds a plain value, one part (`training`), or one of several kinds of part told apart by their `name`
(`recipe.objective`: none, l2, l2_init).
"""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic.fields import FieldInfo

from retrain.config import Task
from retrain.recipe.settings import Part


def parts(field: FieldInfo) -> list[type[Part]]:
    """The kinds of part that a field may hold; none where it holds a plain value."""
    options = get_args(field.annotation) or (field.annotation,)
    return [option for option in options if isinstance(option, type) and issubclass(option, Part)]


def kinds(field: FieldInfo) -> dict[str, type[Part]]:
    """The kinds of part by name, where there are several to choose from."""
    options = parts(field)
    return {option.model_fields["name"].default: option for option in options} if len(options) > 1 else {}


def kinds_at(path: tuple[str, ...], model: type[Part] = Task) -> dict[str, type[Part]]:
    """The kinds to choose from at a path; empty where there is no choice, or no such path."""
    if not path or path[0] not in model.model_fields:
        return {}
    field = model.model_fields[path[0]]
    if len(path) == 1:
        return kinds(field)
    return {name: kind for part in parts(field) for name, kind in kinds_at(path[1:], part).items()}


def with_default_kinds(document: Mapping[Any, Any], model: type[Part] = Task) -> dict[Any, Any]:
    """Name the kind wherever the document leaves it out: `schedule: {scale: 0.5}` is of the default kind, cosine."""
    complete = dict(document)
    for name, field in model.model_fields.items():
        value = document.get(name)
        if not isinstance(value, dict):
            continue
        if kinds(field):
            complete[name] = {"name": field.default.name} | value
        elif options := parts(field):
            complete[name] = with_default_kinds(value, options[0])
    return complete


def paths(model: type[Part] = Task, prefix: str = "") -> Iterator[str]:
    """Every dotted path that a task file may set, those of all kinds included."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for part in parts(field):
            yield from paths(part, f"{prefix}{name}.")
