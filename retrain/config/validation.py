"""Validate a document against the task's models. Errors have one line for each problem."""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from reprlib import repr as shortened
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from retrain.config.fields import PATTERN_WORDS, ConfigModel
from retrain.config.recipe import Recipe
from retrain.config.task import SCHEMA_VERSION, Task
from retrain.errors import TaskError
from retrain.utils.text import did_you_mean

FieldPath = tuple[str, ...]
"""The name of a field and the names of the fields that contain it, outermost first."""


def config_models(field: FieldInfo) -> list[type[ConfigModel]]:
    """Return the models that a field may hold, or none if it holds a plain value."""
    options = get_args(field.annotation) or (field.annotation,)
    return [option for option in options if isinstance(option, type) and issubclass(option, ConfigModel)]


def models_by_name(field: FieldInfo) -> dict[str, type[ConfigModel]]:
    """Return a field's models by their names, if it has a choice of several."""
    if not isinstance(field.discriminator, str):
        return {}
    return {option.model_fields[field.discriminator].default: option for option in config_models(field)}


def models_by_name_at(path: FieldPath, model: type[ConfigModel] = Task) -> dict[str, type[ConfigModel]]:
    """Return the models to choose from at a path. Empty if there is no choice or no such path."""
    if not path or path[0] not in model.model_fields:
        return {}
    field = model.model_fields[path[0]]
    if len(path) == 1:
        return models_by_name(field)
    return {name: kind for part in config_models(field) for name, kind in models_by_name_at(path[1:], part).items()}


def is_text_at(path: FieldPath, model: type[ConfigModel] = Task) -> bool:
    """Return whether the field at a path holds text and nothing else, except for null."""
    field = model.model_fields.get(path[0])
    if field is None:
        return False
    if len(path) > 1:
        return any(is_text_at(path[1:], part) for part in config_models(field))
    options = get_args(field.annotation) or (field.annotation,)
    plain = {get_args(option)[0] if get_origin(option) is Annotated else option for option in options}
    return plain - {type(None)} == {str}


def fill_in_default_names(document: Mapping[Any, Any], model: type[ConfigModel] = Task) -> dict[Any, Any]:
    """Add the default kind if the document omits it: `optimizer: {betas: [0.8, 0.99]}` is of the kind adam.

    In a recipe, the preset chooses the kinds instead.
    """
    complete = dict(document)
    for name, field in model.model_fields.items():
        value = document.get(name)
        if not isinstance(value, dict):
            continue
        if models_by_name(field):
            complete[name] = value if model is Recipe else {field.discriminator: _default_name(field)} | value
        elif options := config_models(field):
            complete[name] = fill_in_default_names(value, options[0])
    return complete


def _default_name(field: FieldInfo) -> str:
    return str(getattr(field.default, str(field.discriminator)))


def settable_paths(model: type[ConfigModel] = Task, prefix: str = "") -> Iterator[str]:
    """Yield every dotted path that a task file may set, including the paths of all kinds."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for part in config_models(field):
            yield from settable_paths(part, f"{prefix}{name}.")


WORDS = {
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "a valid dictionary": "a mapping",
    "a valid tuple": "a list",
    "a valid boolean": "true or false",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "a text",
}
"""Words in pydantic's messages, and their replacements."""


class _Problem(NamedTuple):
    path: FieldPath
    message: str
    value: str


NO_OPTIONS: Mapping[FieldPath, str] = {}


def validate_document(document: Mapping[Any, Any], source: str, options: Mapping[FieldPath, str] = NO_OPTIONS) -> Task:
    """Return the task of a document.

    Raises `TaskError`. Its message names, for each problem, the option that set the field, or else `source`.
    """
    version = document.get("schema_version")
    if str(version).isdecimal() and int(str(version)) > SCHEMA_VERSION:
        raise TaskError(
            f"{source}: schema_version: {version} is from a later version of retrain; this version reads up to "
            f"{SCHEMA_VERSION}. Upgrade retrain"
        )
    try:
        task = Task.model_validate(fill_in_default_names(document))
    except ValidationError as error:
        raise TaskError(describe_problems(error, Task, source, options)) from None
    if problems := list(_booleans_as_numbers(document, task.model_dump())):
        raise TaskError(_describe(problems, source, options))
    return task


def describe_problems(
    error: ValidationError, model: type[ConfigModel], source: str, options: Mapping[FieldPath, str] = NO_OPTIONS
) -> str:
    """Return one line for each problem of a document. It names the option that set the field, or else `source`."""
    return _describe(_merged(_problem(detail, model) for detail in error.errors()), source, options)


def _describe(problems: Iterable[_Problem], source: str, options: Mapping[FieldPath, str]) -> str:
    lines = []
    for problem in problems:
        named = (option for path, option in options.items() if _related(problem.path, path))
        place = ": ".join([next(named, source), *filter(None, [".".join(problem.path)])])
        lines.append(f"{place}: {problem.message}{problem.value}")
    return "\n".join(lines)


def _booleans_as_numbers(given: object, read: object, path: FieldPath = ()) -> Iterator[_Problem]:
    """Yield a problem for each true or false that pydantic has read as the number 1 or 0."""
    if isinstance(given, Mapping) and isinstance(read, Mapping):
        for name, value in given.items():
            yield from _booleans_as_numbers(value, read.get(name), (*path, str(name)))
    elif isinstance(given, bool) and isinstance(read, int | float) and not isinstance(read, bool):
        yield _Problem(path, "must be a number", f" (got {given})")


def _related(path: FieldPath, other: FieldPath) -> bool:
    """Return whether one of two paths is a prefix of the other."""
    return all(a == b for a, b in zip(path, other, strict=False))


def _merged(problems: Iterable[_Problem]) -> list[_Problem]:
    """Merge problems with the same path. A union of plain types has one problem for each type ('auto', a number)."""
    merged: dict[FieldPath, _Problem] = {}
    for problem in problems:
        if (first := merged.get(problem.path)) and first.message != problem.message:
            problem = problem._replace(message=f"{first.message} or {problem.message.removeprefix('must be ')}")
        merged[problem.path] = problem
    return list(merged.values())


def _problem(detail: ErrorDetails, root: type[ConfigModel]) -> _Problem:
    """Return one of pydantic's errors as a problem that users understand."""
    path, model = _place(detail["loc"], root)
    got = detail["input"]
    match detail["type"]:
        case "extra_forbidden" | "invalid_key":
            return _Problem(path, _unknown(path, model, root), "")
        case "missing":
            return _Problem(path, "is missing", "")
        case "secret" | "incomplete" | "value_error" if "should" not in detail["msg"]:
            return _Problem(path, detail["msg"].removeprefix("Value error, "), "")
        case "explained":
            return _Problem(path, detail["msg"], f" (got {shortened(got)})")
        case "union_tag_invalid":
            allowed = detail["ctx"]["expected_tags"].replace("'", "")
            kind = detail["ctx"]["discriminator"].replace("'", "")
            return _Problem((*path, kind), f"must be one of {allowed}", f" (got {shortened(got[kind])})")
        case "string_pattern_mismatch" | "string_type" if rule := _rule(detail, path, model):
            return _Problem(path, rule, _describe_value(got, detail["type"]))
        case "model_type" | "model_attributes_type":
            return _Problem(path, "must be a mapping of fields", f" (got {shortened(got)})")
    requirement = re.sub(r"^.*?should| after validation|, (unable|got|not) .*$", "", detail["msg"])
    for words, replacement in WORDS.items():
        requirement = requirement.replace(words, replacement)
    return _Problem(path, f"must{requirement}", _describe_value(got, detail["type"]))


def _describe_value(got: object, kind: str) -> str:
    """Return a wrong value in brackets. If YAML has read a text as a number, boolean or date, say what to do."""
    is_misread = kind == "string_type" and isinstance(got, int | float | date)
    return f" (got {got}; put a text in quotes)" if is_misread else f" (got {shortened(got)})"


def _rule(detail: ErrorDetails, path: FieldPath, model: type[ConfigModel]) -> str:
    """Return what a text must be, or the field's description in one line. Empty for a key of a mapping."""
    if words := PATTERN_WORDS.get(detail.get("ctx", {}).get("pattern", "")):
        return f"must be {words}"
    field = model.model_fields.get(path[-1])
    described = " ".join((field.description or "").split()).rstrip(".") if field else ""
    return f"is not valid: {described}" if described else ""


def _place(location: tuple[int | str, ...], model: type[ConfigModel]) -> tuple[FieldPath, type[ConfigModel]]:
    """Return the path as users write it, without pydantic's union members, and the model that contains its field."""
    if not location:
        return (), model
    step, *rest = location
    field = model.model_fields.get(str(step))
    if not rest:
        return (str(step),), model
    if field is None:  # an index, among several parts of one kind
        path, model = _place(tuple(rest), model)
        return (str(step), *path), model
    if options := models_by_name(field):
        model, rest = options[str(rest[0])], rest[1:]
    elif inner := config_models(field):
        model = inner[0]
    else:  # an index or a key follows, and then a union's member
        rest = rest[: 1 if get_origin(field.annotation) in (tuple, dict) else 0]
        return (str(step), *map(str, rest)), model
    path, model = _place(tuple(rest), model)
    return (str(step), *path), model


def _unknown(path: FieldPath, model: type[ConfigModel], root: type[ConfigModel]) -> str:
    """Return the message for an unknown field: the allowed fields, and the most similar name, if there is one."""
    word, allowed = path[-1], list(model.model_fields)
    if owners := [name for name, kind in models_by_name_at(path[:-1], root).items() if word in kind.model_fields]:
        hint = f"; it is a field of {' and '.join(owners)} only"
    else:
        siblings = {name: ".".join((*path[:-1], name)) for name in allowed}
        anywhere = {full.rpartition(".")[2]: full for full in settable_paths(root)}
        hint = did_you_mean(word, siblings) or did_you_mean(word, anywhere)
    return f"unknown field {word!r}; allowed: {', '.join(allowed)}{hint}"
