"""Find pretrained weights and the image settings that they need, and store the weights for a task.

A plan contains only the SHA-256 of the weights. The task's store has a copy. Later runs, pods and other
machines therefore start from the same file. Only safetensors are read. Files are downloaded only from stores that the
task names.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain.config.task import Model, Task
from retrain.errors import ModelError, TaskError
from retrain.store import Missing, open_store
from retrain.store.task_store import TaskStore
from retrain.utils.text import did_you_mean

if TYPE_CHECKING:  # planning without pretrained weights needs no torch
    from torch import Tensor, nn

HF_CACHE = "hf-cache"
"""Value of `model.pretrained` for the weights of a timm network in Hugging Face's local cache."""

TIMM = "timm/"
"""Prefix of the names of timm's networks."""

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Prefixes of torchvision's auxiliary classifiers. Only training from scratch at ImageNet's size would use them."""

INSTALL_TIMM = "it needs timm: pip install 'retrain-classifiers[timm]'"

USE_COPY = (
    ". If a run has used the file, the store has a copy in the task's folder: pretrained/SHA256.safetensors. To train "
    "from the copy, set model.pretrained_sha256 to this SHA-256"
)
"""Advice for weights that are no longer where `model.pretrained` states."""


def resolve_task(task: Task) -> Task:
    """Return the task with the settings that its network determines: image size, normalization and the weights'
    SHA-256.

    Settings in the task file take precedence. The default of `model.stem` becomes standard, because published weights
    have this stem. Raises `ModelError` if the network or its weights cannot be found, and `TaskError` if the weights
    have another SHA-256 than the task states.
    """
    model = task.model
    if model.pretrained is None and not model.name.startswith(TIMM):
        return task
    own = {name: value for name, value in own_input(model).items() if name not in task.data.model_fields_set}
    chosen: dict[str, Any] = {} if "stem" in model.model_fields_set else {"stem": "standard"}
    if model.pretrained and not model.pretrained_sha256:
        chosen["pretrained_sha256"] = hashlib.sha256(read_pretrained_file(model, task.endpoint_url)).hexdigest()
    return task.model_copy(update={"data": task.data.model_copy(update=own), "model": model.model_copy(update=chosen)})


def own_input(model: Model) -> dict[str, Any]:
    """Return the fields of `data` that a network's configuration states. Empty if the network has no configuration."""
    if model.name.startswith(TIMM):
        config = timm_config(model)
        _, height, width = config.input_size
        return {"image_size": height if height == width else (height, width), "mean": config.mean, "std": config.std}
    from torchvision import models

    if model.name not in models.list_models(module=models):
        return {}
    preset = models.get_model_weights(model.name).DEFAULT.transforms()
    return {"image_size": preset.crop_size[0], "mean": tuple(preset.mean), "std": tuple(preset.std)}


def timm_config(model: Model) -> Any:
    """Return timm's configuration of a network's pretrained weights. Raises `ModelError` if there is no such name."""
    try:
        import timm
    except ImportError as error:
        raise ModelError(f"model.name: {model.name}: {INSTALL_TIMM}") from error
    name = model.name.removeprefix(TIMM)
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # timm has the network, but no such weights
        raise ModelError(f"model.name: {model.name}: {str(error).rstrip('.')}{_nearest_timm_name(name)}") from error
    if config is None:
        hint = _nearest_timm_name(name)
        raise ModelError(f"model.name: timm has no model {name!r}{hint}; `timm.list_models()` in Python lists them")
    return config


def _nearest_timm_name(name: str) -> str:
    import timm

    names = [*timm.list_models(), *timm.list_models(pretrained=True)]
    return did_you_mean(name, {known: TIMM + known for known in names})


def read_pretrained_file(model: Model, endpoint_url: str | None) -> bytes:
    """Return the bytes of the pretrained weights from the place that `model.pretrained` states. Raises `ModelError`."""
    location = str(model.pretrained)
    if location == HF_CACHE:
        location = _cached_by_hugging_face(model)
    if not location.endswith(".safetensors"):
        raise ModelError(
            f"model.pretrained: {location}: must be a .safetensors file; other formats can run code. "
            "docs/training.md shows how to convert one"
        )
    if "://" not in location:
        try:
            return Path(location).read_bytes()
        except OSError as error:
            raise ModelError(
                f"model.pretrained: {location}: cannot be read: {error.strerror}: correct the path or its permissions"
                f"{USE_COPY}"
            ) from error
    folder, _, name = location.rpartition("/")
    if location.partition("://")[0] not in ("s3", "gs", "az"):
        raise ModelError(
            f"model.pretrained: {location}: must be a path or begin with s3://, gs:// or az://: download the file, and "
            "set its path"
        )
    try:
        return open_store(folder, endpoint_url).read(name)[0]
    except Missing as error:
        raise ModelError(
            f"model.pretrained: {location}: there is no such object: upload it or correct the address{USE_COPY}"
        ) from error


def _cached_by_hugging_face(model: Model) -> str:
    """Return the path of a timm name's cached weights. Nothing is downloaded."""
    if not model.name.startswith(TIMM):
        raise ModelError(
            f"model.pretrained: {HF_CACHE} works only for timm networks (model.name: {TIMM}NAME), not for "
            f"{model.name}: set it to a .safetensors file"
        )
    repository = timm_config(model).hf_hub_id
    if repository is None:
        raise ModelError(
            f"model.pretrained: timm lists no weights of {model.name} on Hugging Face: set it to a .safetensors file"
        )
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "model.safetensors")
    if not isinstance(found, str):
        raise ModelError(
            f"model.pretrained: {HF_CACHE} does not contain {repository}; "
            f"`hf download {repository} model.safetensors` on this machine fetches it"
        )
    return found


def read_pretrained(store: TaskStore, task: Task, keep: bool = False) -> bytes | None:
    """Return the initial weights of a resolved task, or None if it has none.

    They are read from the task's store, or else from the place that `model.pretrained` states. `keep` copies them to
    the store. Raises `ModelError` if they are in neither place, and `TaskError` if they have another SHA-256.
    """
    sha256 = task.model.pretrained_sha256
    if sha256 is None:
        return None
    try:
        data, _ = store.objects.read(store.keys.pretrained(sha256))
    except Missing:
        if task.model.pretrained is None:
            raise ModelError(
                f"model.pretrained: the weights {sha256} are not in {store.url}: set it to the file of these weights"
            ) from None
        data = read_pretrained_file(task.model, task.endpoint_url)
        _check_digest(data, sha256, str(task.model.pretrained))
        if keep:
            store.objects.create(store.keys.pretrained(sha256), data)
        return data
    _check_digest(data, sha256, f"{store.url}/{store.keys.pretrained(sha256)}")
    return data


def _check_digest(data: bytes, sha256: str, where: str) -> None:
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise TaskError(
            f"model.pretrained: {where} has the SHA-256 {found}, but the task or plan expects {sha256}: restore the "
            "file with the expected SHA-256, or correct pretrained_sha256"
        )


def body_weights(network: "nn.Module", data: bytes) -> "dict[str, Tensor]":
    """Return the pretrained tensors of a network without its classifiers, from the bytes of a safetensors file.

    The last layer was trained on other classes, so it is newly initialized. Other layers with an output for each class
    are newly initialized, too. Distilled networks have such layers. Raises `ModelError` with the first tensor that does
    not fit or cannot be trained. Integers, such as a count of batches, may be missing in the file. Auxiliary
    classifiers may be missing in the network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from retrain.recipe.initialization import head_prefix

    try:
        weights = load(data)
    except SafetensorError as error:
        raise ModelError(f"model.pretrained: not a valid safetensors file: {error}: download it again") from error
    head = head_prefix(network)
    state = network.state_dict()
    heads = (head, *_other_heads(state, weights, head))
    wanted = {name: each for name, each in state.items() if not name.startswith(heads)}
    found = {
        name: each
        for name, each in weights.items()
        if not name.startswith(heads) and (name in wanted or not name.startswith(AUXILIARY))
    }
    for name in [*wanted, *found]:
        absent = name in wanted and name not in found and not wanted[name].is_floating_point()
        if not absent and _shape(wanted, name) != _shape(found, name):
            raise ModelError(
                f"model.pretrained: {name} is {_shape(found, name)} in the file, {_shape(wanted, name)} in the "
                f"network; {_advise(network, weights, name)}"
            )
    _check_numbers(network, found)
    return found


def _check_numbers(network: "nn.Module", found: "Mapping[str, Tensor]") -> None:
    """Raise `ModelError` for quantized weights, and for weights that are not finite. A buffer may be infinite."""
    parameters = dict(network.named_parameters())
    for name, each in found.items():
        if name in parameters and not each.is_floating_point():
            raise ModelError(
                f"model.pretrained: {name} has the type {each.dtype}, and quantized weights cannot be trained: use "
                "weights in floating point"
            )
        values = each.float()
        if values.isnan().any() or (name in parameters and values.isinf().any()):
            raise ModelError(f"model.pretrained: {name} contains NaN or infinity: use weights without them")


def _advise(network: "nn.Module", weights: "Mapping[str, Tensor]", name: str) -> str:
    """Return what to do about weights of which the tensor of this name does not fit."""
    for one in weights:
        prefix = one.removesuffix(name)
        if prefix.endswith(".") and prefix != one and all(other.startswith(prefix) for other in weights):
            return f"remove the prefix {prefix} from all names in the file"
    return _stem_advice(network, weights) or "use weights of this network"


def _stem_advice(network: "nn.Module", weights: "Mapping[str, Tensor]") -> str:
    """Return which `model.stem` the weights of a residual network need. Empty if the network has this stem."""
    from retrain.models.resnets import ResNet

    first = weights.get("conv1.weight")
    if not isinstance(network, ResNet) or first is None or first.shape[2:] == network.conv1.weight.shape[2:]:
        return ""
    return f"set model.stem to {'small' if first.shape[2:] == (3, 3) else 'standard'}, which the weights have"


def _other_heads(state: "Mapping[str, Tensor]", weights: "Mapping[str, Tensor]", head: str) -> set[str]:
    """Return the prefixes of other layers with an output for each class, in the network and in the file.

    Empty if both have the same number of classes, because all layers then fit.
    """
    classes, theirs = (
        next((len(each) for name, each in tensors.items() if name.startswith(head)), 0) for tensors in (state, weights)
    )
    if classes == theirs:
        return set()
    both = [name for name in state if name in weights and state[name].ndim and weights[name].ndim]
    return {
        f"{name.rpartition('.')[0]}."
        for name in both
        if (len(state[name]), len(weights[name])) == (classes, theirs)
        and state[name].shape[1:] == weights[name].shape[1:]
    }


def _shape(tensors: "Mapping[str, Tensor]", name: str) -> str:
    return f"of shape {list(tensors[name].shape)}" if name in tensors else "missing"
