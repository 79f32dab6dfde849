"""A commented starting file and the JSON schema, both generated from the models so that neither can drift from them."""

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from retrain.config.fields import ConfigModel
from retrain.config.recipe import PRESETS, Recipe
from retrain.config.task import SCHEMA_VERSION, Task
from retrain.config.validation import config_models, models_by_name, validate_document

WIDTH = 100


SCHEMA_FILE = "task.schema.json"
"""The schema's file beside task files, which editors read."""


def short_template(name: str) -> str:
    """Return a task file with the settings that a first user changes, at their defaults. Raises `TaskError`."""
    task = validate_document({"name": name}, "new task")
    data, training = task.data, task.training
    return f"""\
# yaml-language-server: $schema={SCHEMA_FILE}
# What is left out has its default; `retrain task init NAME --full` writes every setting.
schema_version: {task.schema_version}
name: {task.name}
store: {task.store}  # a folder, or s3://bucket/prefix
data:
  image_size: {data.image_size}  # side in pixels, or [height, width]; without it, a timm network has its own
  flip: {str(data.flip).lower()}  # false where left and right differ, as in digits and text
model:
  name: {task.model.name}  # a network of torchvision, or timm/NAME
training:
  epochs: {training.epochs:g}  # passes of training from scratch over the data
"""


def task_template(name: str) -> str:
    """A task file in which every field has its default, with what the field is above it. Raises `TaskError`."""
    task = validate_document({"name": name}, "new task")
    header = _comment("Only the name is needed: what is left out has the default that stands here.", "")
    return "\n".join([*header, "", *_fields(task, {}, "")]) + "\n"


def task_schema() -> dict[str, Any]:
    """Return the JSON schema of a task file, for editors and other programs.

    A kind other than the default has to be named, except in a recipe: there the preset names it, so that a part without
    a name may fit several kinds.
    """
    document = Task.model_json_schema()
    document["properties"]["schema_version"]["maximum"] = SCHEMA_VERSION  # records may have that of a later version
    for aspect in PRESETS["default"]:
        kinds = document["$defs"]["Recipe"]["properties"][aspect]
        kinds["anyOf"] = kinds.pop("oneOf")
    for kind, discriminator in _to_be_named(Task):
        document["$defs"][kind.__name__]["required"] = [discriminator]
    return document


def _to_be_named(model: type[ConfigModel]) -> Iterator[tuple[type[ConfigModel], str]]:
    """Models that must name their kind. A recipe's need not: its preset names them."""
    for field in model.model_fields.values():
        if (discriminator := field.discriminator) and model is not Recipe:
            default = getattr(field.default, str(discriminator))
            others = (kind for name, kind in models_by_name(field).items() if name != default)
            yield from ((kind, str(discriminator)) for kind in others)
        for part in config_models(field):
            yield from _to_be_named(part)


def _fields(part: ConfigModel, choices: dict[str, type[ConfigModel]], pad: str) -> Iterator[str]:
    """The lines of a part; `choices` are the kinds that could stand in its place."""
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if name in ("name", "kind"):
            yield from _kinds(choices, pad)
        yield from _comment(field.description or "", pad)
        if isinstance(value, ConfigModel):
            yield f"{pad}{name}:"
            yield from _fields(value, models_by_name(field), pad + "  ")
        else:
            yield f"{pad}{name}: {_flow(value)}"


def _kinds(choices: dict[str, type[ConfigModel]], pad: str) -> Iterator[str]:
    """What each kind is, and its fields."""
    for name, kind in choices.items():
        fields = ", ".join(field for field in kind.model_fields if field not in ("name", "kind"))
        yield from _comment(f"{name}: {kind.__doc__}" + (f" ({fields})" if fields else ""), pad)


def _comment(text: str, pad: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{pad}# ", subsequent_indent=f"{pad}# ")


def _flow(value: object) -> str:
    """A plain value on one line; YAML would end a lone scalar with the document's end mark."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
