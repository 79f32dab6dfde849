"""Check `model.options` by the signature of the network's factory."""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from retrain.config.task import Model
from retrain.errors import ModelError
from retrain.models.pretrained import TIMM
from retrain.utils.text import did_you_mean

SET_BY_CALLER = frozenset(
    {"self", "classes", "image_size", "num_classes", "img_size", "weights", "progress", "pretrained"}
)
"""Arguments that cannot be options, because the caller sets them."""
REFUSED = frozenset({"num_classes", "weights", "pretrained", "checkpoint_path"})
"""Arguments of torchvision and timm that would replace the classes, or read weights that are not safetensors."""
UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
"""Python's message about an argument that a function does not accept."""


class NetworkOptions(NamedTuple):
    """The options of a network."""

    names: Sequence[str]
    """Names of the parameters with a default. A task may set them."""
    known: frozenset[str]
    """All parameters, including the ones that the network's name determines."""
    is_complete: bool
    """Whether the network has no other options. A function with `**options` may accept others."""


def find_options(build: Callable[..., Any]) -> NetworkOptions:
    """Return the options of a network, given the function that builds it.

    If the function has `**options`, the parameters of its annotated return class count as well.
    """
    signature = inspect.signature(build)
    arguments = list(signature.parameters.values())
    built = signature.return_annotation
    if _takes_any(arguments) and inspect.isclass(built) and "__init__" in vars(built):
        own = [one for one in arguments if one.kind is not one.VAR_KEYWORD]
        arguments = [*own, *inspect.signature(built.__init__).parameters.values()]
    plain = [one for one in arguments if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    settable = [one.name for one in plain if one.default is not one.empty and one.name not in SET_BY_CALLER]
    return NetworkOptions(settable, frozenset(one.name for one in plain), not _takes_any(arguments))


def _takes_any(arguments: Sequence[inspect.Parameter]) -> bool:
    return any(one.kind is one.VAR_KEYWORD for one in arguments)


def check_options(model: Model, build: Callable[..., Any]) -> None:
    """Raise `ModelError` if a network does not accept one of a model's options.

    The message lists the options that exist.
    """
    refused = {"classes", "image_size"} if ":" in model.name else {"classes", "image_size", *REFUSED}
    if found := sorted(refused & model.options.keys()):
        raise ModelError(
            f"model.options.{found[0]}: cannot be an option: remove it; the drops state the classes, data.image_size "
            "the size, and model.pretrained the initial weights"
        )
    if model.name.startswith(TIMM):  # timm's functions also accept options that are not parameters of a network
        return
    try:
        taken = find_options(build)
    except (TypeError, ValueError):  # a function of native code has no signature
        return
    for name in model.options:
        if taken.is_complete and name not in taken.known:
            raise _unknown_option(model, name, taken)


def unknown_option(model: Model, build: Callable[..., Any], error: Exception) -> ModelError | None:
    """Return an error that names the option. None if `error` is not Python's error for an unexpected argument."""
    found = UNEXPECTED.search(str(error)) if isinstance(error, TypeError) else None
    if found is None or found[1] not in model.options:
        return None
    try:
        return _unknown_option(model, found[1], find_options(build))
    except (TypeError, ValueError):
        return None


def _unknown_option(model: Model, name: str, taken: NetworkOptions) -> ModelError:
    allowed = ", ".join(taken.names) or "none"
    hint = did_you_mean(name, {one: f"model.options.{one}" for one in taken.names})
    return ModelError(f"model.options.{name}: {model.name} has no such option; allowed: {allowed}{hint}")
