"""Drops decoded once: one safetensors file for each drop (by its digest) and image size."""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from retrain.data.decoding import SplitArrays, decode_drop
from retrain.data.source import SPLITS
from retrain.errors import UserError
from retrain.layout import Layout
from retrain.records import Drop
from retrain.store.base import Store
from retrain.words import Split

_whole: set[tuple[Path, int]] = set()
"""Files that this process has read through and found whole, each with the time it was written."""


def decoded(drop: Drop, store: Store, layout: Layout, image_size: int, cache_dir: Path) -> dict[Split, SplitArrays]:
    """Return a drop's splits, mapped from the cache; decoded into it first if they are not there, or damaged.

    Raises what `decode_drop` does, and `UserError` if the cache cannot be written.
    """
    path = path_of(drop, image_size, cache_dir)
    if not _is_whole(path):
        _save(decode_drop(drop, store, layout, image_size), path)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    return {split: SplitArrays(tensors[f"{split}.images"], tensors[f"{split}.labels"]) for split in SPLITS}


def path_of(drop: Drop, image_size: int, cache_dir: Path) -> Path:
    """Return where a drop lies decoded."""
    return cache_dir / f"{drop.digest}-{image_size}.safetensors"


def _save(arrays: Mapping[Split, SplitArrays], path: Path) -> None:
    tensors = {f"{split}.{name}": tensor for split in arrays for name, tensor in arrays[split]._asdict().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="writing-") as folder:
            part = Path(folder, path.name)
            save_file(tensors, part, {"sha256": _sha256(tensors)})
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be written: {error}. $RETRAIN_CACHE may name another folder.") from error


def _is_whole(path: Path) -> bool:
    """Whether a file holds what was decoded into it, asked once a process: it reads every byte."""
    try:
        file_as_written = path, path.stat().st_mtime_ns
        if file_as_written in _whole:
            return True
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            if (file.metadata() or {}).get("sha256") != _sha256(tensors):
                return False
    except (OSError, SafetensorError):
        return False
    _whole.add(file_as_written)
    return True


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    sha256 = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha256.update(tensor.flatten().numpy().data)
    return sha256.hexdigest()
