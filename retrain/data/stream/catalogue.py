"""List the samples of a drop's shards and their byte offsets. The list is stored next to the decoded drops."""

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from retrain.config import SPLITS, Split
from retrain.config.frame import Size
from retrain.data.local_cache import WRITING, decoded_name, mark_used
from retrain.data.stream.reading import HELD_OUT, read_streamed_drop
from retrain.data.stream.shard_cache import ShardCache
from retrain.errors import DamagedDrop, DropError, UserError
from retrain.records import Drop
from retrain.store.task_store import TaskStore

ARRAYS = "safetensors"


class Catalogue(NamedTuple):
    """A drop's training samples, in the order of the manifest's shards, and its held-out splits.

    `counts`, int64 [shards], has the number of training samples in each of the manifest's shards. `offset`, int64, and
    `length`, int32 [N], locate the bytes of N training samples in their shards. `labels`, int64, has indices into the
    drop's `classes`.
    """

    counts: Tensor
    offset: Tensor
    length: Tensor
    labels: dict[Split, Tensor]
    held_out: dict[Split, Path]
    """Files of pixels, uint8 [3, height, width] for each sample."""


def load_catalogue(drop: Drop, cache: ShardCache, store: TaskStore, image_size: Size, folder: Path) -> Catalogue:
    """Return a drop's catalogue from below `folder`. If it is missing or damaged, make it and store it there first.

    Raises `DamagedDrop`, with shard and key, if the shards differ from the manifest, and `UserError` if the folder
    cannot be written.
    """
    files = catalogue_files(drop, image_size, folder)
    found = _opened(files)
    if found is None:
        try:
            _make(drop, cache, store, image_size, files)
        except DropError as error:
            raise DamagedDrop(drop.id, str(error)) from error
        found = _opened(files)
        assert found  # `_make` has just written it
    return found


def catalogue_files(drop: Drop, image_size: Size, folder: Path) -> dict[str, Path]:
    """Return the paths of a drop's catalogue: the pixels of its held-out splits, and its arrays."""
    return {name: folder / f"{decoded_name(drop, image_size)}.{name}" for name in (*HELD_OUT, ARRAYS)}


def _opened(files: Mapping[str, Path]) -> Catalogue | None:
    """Return the catalogue in these files, or None if a file is missing, damaged or of another catalogue."""
    try:
        with safe_open(files[ARRAYS], "pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - it is no mapping
            if file.metadata() != _digests(tensors, files):
                return None
    except (OSError, SafetensorError):
        return None
    for path in files.values():
        mark_used(path)
    labels = {split: tensors.pop(f"labels.{split}") for split in SPLITS}
    return Catalogue(**tensors, labels=labels, held_out={split: files[split] for split in HELD_OUT})


def _make(drop: Drop, cache: ShardCache, store: TaskStore, image_size: Size, files: Mapping[str, Path]) -> None:
    """Write the files to a temporary folder, and then rename them.

    The file of arrays comes last, because it contains the digests of all files.
    """
    folder = files[ARRAYS].parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=WRITING) as temporary:
            parts = {name: Path(temporary, name) for name in files}
            tensors = read_streamed_drop(drop, cache, store, image_size, parts)
            save_file(tensors, parts[ARRAYS], _digests(tensors, parts))
            for name, part in parts.items():
                part.replace(files[name])
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be written: {error}. Set $RETRAIN_CACHE to another folder.") from error


def _digests(tensors: Mapping[str, Tensor], files: Mapping[str, Path]) -> dict[str, str]:
    """Return the SHA-256 of every array, and of every file of pixels."""
    digests = {name: hashlib.sha256(tensor.numpy().data).hexdigest() for name, tensor in tensors.items()}
    for split in HELD_OUT:
        with files[split].open("rb") as file:
            digests[split] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
