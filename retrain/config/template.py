"""The commented task file and the JSON schema, both generated from the models so that they cannot differ."""

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
"""Name of the schema's file. Editors look for it next to task files."""


def short_template(name: str) -> str:
    """Return a task file with the settings that a first user changes, at their defaults. Raises `TaskError`."""
    task = validate_document({"name": name}, "new task")
    data, training = task.data, task.training
    return f"""\
# yaml-language-server: $schema={SCHEMA_FILE}
# Settings that are left out have their defaults; `retrain task init NAME --full` writes every setting.
# Without a GPU, begin with image_size: 32, options: {{width: 16}}, epochs: 30 and batch_size: 32.
schema_version: {task.schema_version}
name: {task.name}
store: {task.store}  # a folder, or s3://bucket/prefix, gs://bucket/prefix, az://container/prefix
data:
  image_size: {data.image_size}  # side in pixels, or [height, width]; a timm network has its own default
  flip: {str(data.flip).lower()}  # false if left and right differ, as in digits and text
model:
  name: {task.model.name}  # a torchvision network, or timm/NAME
  options: {{}}  # the network's own options, such as {{width: 16}} for a narrow network
training:
  epochs: {training.epochs:g}  # length of training from scratch
"""


def task_template(name: str) -> str:
    """Return a task file with every field at its default, below its description. Raises `TaskError`."""
    task = validate_document({"name": name}, "new task")
    header = _comment("Only the name is required. Fields that are left out have the defaults shown here.", "")
    return "\n".join([*header, "", *_fields(task, {}, "")]) + "\n"


def task_schema() -> dict[str, Any]:
    """Return the JSON schema of a task file, for editors and other programs.

    By the schema, a part must state its kind, unless it has the default kind. A part of a recipe need not state it,
    because the preset may choose the kind. Such a part may match several kinds.
    """
    document = Task.model_json_schema()
    # the model has no maximum, because a record may contain the version of a later release
    document["properties"]["schema_version"]["maximum"] = SCHEMA_VERSION
    for aspect in PRESETS["default"]:
        kinds = document["$defs"]["Recipe"]["properties"][aspect]
        kinds["anyOf"] = kinds.pop("oneOf")
    for kind, discriminator in _kinds_to_name(Task):
        document["$defs"][kind.__name__]["required"] = [discriminator]
    return document


def _kinds_to_name(model: type[ConfigModel]) -> Iterator[tuple[type[ConfigModel], str]]:
    """Yield the models whose kind a task file must state, with the field that states it.

    The parts of a recipe are left out, because the preset may choose their kinds.
    """
    for field in model.model_fields.values():
        if (discriminator := field.discriminator) and model is not Recipe:
            default = getattr(field.default, str(discriminator))
            others = (kind for name, kind in models_by_name(field).items() if name != default)
            yield from ((kind, str(discriminator)) for kind in others)
        for part in config_models(field):
            yield from _kinds_to_name(part)


def _fields(part: ConfigModel, choices: dict[str, type[ConfigModel]], pad: str) -> Iterator[str]:
    """Yield the lines of a part. `choices` are its possible kinds."""
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
    """Yield a comment for each kind with its description and fields."""
    for name, kind in choices.items():
        fields = ", ".join(field for field in kind.model_fields if field not in ("name", "kind"))
        described = " ".join((kind.__doc__ or "").split())
        yield from _comment(f"{name}: {described}" + (f" ({fields})" if fields else ""), pad)


def _comment(text: str, pad: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{pad}# ", subsequent_indent=f"{pad}# ")


def _flow(value: object) -> str:
    """Return a plain value on one line, without the `...` that YAML writes after a single scalar."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
