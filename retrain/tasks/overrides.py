"""Fields overridden on the command line: `--set recipe.schedule.scale=0.5`.

The value is YAML. An override wins over whatever the file has at its path. Overriding the `name` of a part
(`recipe.objective.name=l2`) changes its kind: what the file says about fields that only other kinds have goes, what
both kinds have stays. Fields that are themselves overridden never go unnoticed: an unknown one is an error.
"""

from collections.abc import Iterable
from functools import reduce
from typing import Any, NamedTuple

from retrain.errors import TaskError
from retrain.tasks.fields import kinds_at
from retrain.tasks.strict_yaml import load_yaml

Document = dict[Any, Any]


class Override(NamedTuple):
    """One field's new value."""

    path: tuple[str, ...]
    value: Any


def parse(text: str) -> Override:
    """Read `path=value`. Raises `TaskError`."""
    path, equals, value = text.partition("=")
    steps = tuple(path.split("."))
    if not equals or not all(steps):
        raise TaskError(f"--set {text}: must be path=value, as in recipe.schedule.scale=0.5")
    return Override(steps, load_yaml(value, f"--set {path}"))


def apply(document: Document, overrides: Iterable[Override]) -> Document:
    """The document with all overrides; changes of kind come first, so that the order given does not matter to them."""
    overrides = list(overrides)
    return reduce(_put, overrides, reduce(_change_kind, overrides, document))


def _put(document: Document, override: Override) -> Document:
    (step, *rest), value = override
    if rest:
        inner = document.get(step)
        value = _put(inner if isinstance(inner, dict) else {}, Override(tuple(rest), value))
    return document | {step: value}


def _change_kind(document: Document, override: Override) -> Document:
    *path, last = override.path
    options = kinds_at(tuple(path)) if last == "name" else {}
    part: Any = document
    for step in path:
        part = part.get(step) if isinstance(part, dict) else None
    chosen = options.get(str(override.value))
    if not isinstance(part, dict) or chosen is None:
        return document
    foreign = {field for kind in options.values() for field in kind.model_fields} - chosen.model_fields.keys()
    return _put(document, Override(tuple(path), {key: part[key] for key in part if key not in foreign}))
