"""Files of decoded images on this machine: one safetensors file for each split of a drop and image size.

This module does not import torch: the process that validates a drop also uses it, and importing torch takes seconds.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from retrain.config import SPLITS, Split
from retrain.config.fields import parse_bytes
from retrain.config.frame import Size, image_shape
from retrain.config.task import Task
from retrain.data.images import Pixels
from retrain.data.local_cache import WRITING, decoded_name
from retrain.data.sample_table import NOWHERE, SampleTable
from retrain.errors import UserError
from retrain.records import Drop

log = logging.getLogger("retrain")

Arrays = Mapping[str, NDArray[np.generic]]
"""One split of a drop: `images` uint8 [N, 3, height, width], and `labels` int64 [N], indices into its `classes`."""


COMPLETE_FILES: set[tuple[Path, int]] = set()
"""Files that are known to be complete, each with its modification time in nanoseconds. This process has written or
checked them, or its subprocess for validation has written them."""


def cache_path(drop: Drop, image_size: Size, cache_dir: Path, split: Split) -> Path:
    """Return the path of a decoded split of a drop."""
    return cache_dir / f"{decoded_name(drop, image_size)}-{split}.safetensors"


def save_arrays(arrays: Arrays, path: Path) -> None:
    """Write a split atomically: its file is either complete or missing.

    Raises `UserError` if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=WRITING) as folder:
            part = Path(folder, path.name)
            save_file(dict(arrays), part, {"sha256": digest_arrays(arrays)})
            with part.open("rb") as file:
                os.fsync(file.fileno())
            written = path, part.stat().st_mtime_ns
            part.replace(path)
            COMPLETE_FILES.add(written)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be written: {error}. Set $RETRAIN_CACHE to another folder.") from error


def digest_arrays(arrays: Arrays) -> str:
    """Return the SHA-256 of named arrays. It also covers their types, by torch's names."""
    sha256 = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha256.update(f"{name} torch.{array.dtype} {array.shape}\n".encode())
        sha256.update(array.reshape(-1).data)
    return sha256.hexdigest()


class DecodedSamples:
    """The decoded images of a drop that is being validated, in a temporary file until their splits are known.

    The images are discarded if they exceed half of the task's memory, because such a task streams its data. They are
    also discarded if they cannot be written. A run then decodes the drop again.
    """

    def __init__(self, file: BinaryIO, task: Task, cache_dir: Path) -> None:
        self._file, self._cache_dir = file, cache_dir
        self._frame, self._shape = task.data.frame, image_shape(task.data.frame)
        self._room = parse_bytes(task.resources.memory) // 2
        self._kept = task.data.loader != "stream"

    def add(self, pixels: Pixels) -> None:
        """Add the image of the next good sample of a shard."""
        self._room -= pixels.nbytes
        if self._kept and self._room < 0:
            self._give_up("they exceed half of resources.memory")
        if self._kept:
            try:
                if self._file.write(pixels.data) < pixels.nbytes:
                    self._give_up("the disk is full")
            except OSError as error:
                self._give_up(str(error))

    def save(self, drop: Drop, table: SampleTable) -> None:
        """Write the splits of the drop to the cache. `table` is the sample table with which the drop was committed."""
        if not self._kept:
            return
        place = np.cumsum((table.width > 0) & (table.shard != NOWHERE)) - 1
        positions = {name: position for position, name in enumerate(drop.classes)}
        label_of = np.array([positions.get(name, NOWHERE) for name in table.classes])
        images = np.memmap(self._file, np.uint8, "r", shape=(int(place[-1]) + 1, *self._shape))
        try:
            for position, split in enumerate(SPLITS):
                rows = np.flatnonzero(table.use == position)
                arrays: Arrays = {"images": images[place[rows]], "labels": label_of[table.label[rows]]}
                save_arrays(arrays, cache_path(drop, self._frame, self._cache_dir, split))
        except UserError as error:
            self._give_up(str(error))

    def _give_up(self, cause: str) -> None:
        log.info("the decoded images could not be cached, so the run decodes them again: %s", cause)
        self._kept = False
        with suppress(OSError):
            self._file.truncate(0)


@contextmanager
def keep_decoded(task: Task, cache_dir: Path | None) -> Iterator[DecodedSamples | None]:
    """Yield an object that collects the decoded images of a drop.

    Yield None if there is no cache folder, or if it cannot be written.
    """
    if cache_dir is None:
        yield None
        return
    with ExitStack() as stack:
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            # Unbuffered: on a full disk, the file could not be closed while its buffer is not empty.
            file = stack.enter_context(tempfile.TemporaryFile(dir=cache_dir, buffering=0))
        except OSError as error:
            log.info("the decoded images could not be cached, so the run decodes them again: %s", error)
            yield None
        else:
            yield DecodedSamples(file, task, cache_dir)
