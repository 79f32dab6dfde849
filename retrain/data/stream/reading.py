"""Read a drop's shards once: record the offsets of training samples, and decode held-out samples into files."""

import os
from array import array
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrain.config import SPLITS, Split
from retrain.config.frame import Size
from retrain.data.assignment import Assignment
from retrain.data.images import decode_image
from retrain.data.shards import image_locations
from retrain.data.stream.shard_cache import ReadAhead, ShardCache, ShardRef
from retrain.errors import DropError
from retrain.records import Drop
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore
from retrain.utils.parallel import parallel_map

HELD_OUT: tuple[Split, ...] = ("val", "test")


def shard_refs(drop: Drop, keys: TaskKeys) -> list[ShardRef]:
    """Return a drop's shards in the manifest's order."""
    return [ShardRef(drop.id, keys.drop_file(drop.id, shard.name), shard) for shard in drop.shards]


def read_streamed_drop(
    drop: Drop, cache: ShardCache, store: TaskStore, image_size: Size, files: Mapping[str, Path]
) -> dict[str, Tensor]:
    """Return the arrays of a drop's catalogue, and write each held-out split's pixels into its file.

    Raises `DropError`, naming shard and key, if the shards differ from the manifest.
    """
    reading = _Reading(drop, cache, Assignment.of(drop, store))
    with ExitStack() as stack:
        pixels = {split: stack.enter_context(files[split].open("wb")) for split in HELD_OUT}
        held_out = reading.held_out(shard_refs(drop, store.keys))
        for split, image in parallel_map(lambda held: (held.split, _decoded(held, image_size)), held_out):
            pixels[split].write(image.data)
    return reading.arrays()


class _HeldOut(NamedTuple):
    """A sample of a held-out split, with its name for error messages."""

    split: Split
    name: str
    image: bytes


class _Reading:
    """The arrays of a drop, filled while its shards are read."""

    def __init__(self, drop: Drop, cache: ShardCache, assignment: Assignment) -> None:
        self.drop, self.cache, self._assignment = drop, cache, assignment
        self._label_of = {name: label for label, name in enumerate(drop.classes)}
        self._labels = {split: array("q") for split in SPLITS}
        self._offset, self._length, self._counts = array("q"), array("q"), array("q")

    def held_out(self, shards: list[ShardRef]) -> Iterator[_HeldOut]:
        """Record all samples of the shards, and yield the held-out ones."""
        with ReadAhead(self.cache) as ahead:
            ahead.follow(shards)
            for position, ref in enumerate(shards):
                ahead.reach(position)
                before = len(self._offset)
                yield from self._held_out_of(ref, position)
                self._counts.append(len(self._offset) - before)

    def _held_out_of(self, ref: ShardRef, position: int) -> Iterator[_HeldOut]:
        where = f"{self.cache.store.url}/{ref.key}"
        with self.cache.hold(ref) as file:
            for key, class_name, offset, length in image_locations(file, where, self._assignment.skipped(position)):
                place = self._assignment.place(position, key, class_name)
                if place is None:
                    continue
                if place.class_name not in self._label_of:
                    raise DropError(
                        f"{where}: {key}: its class {place.class_name} is not in the manifest: pack the drop again "
                        "under a new id"
                    )
                self._labels[place.split].append(self._label_of[place.class_name])
                if place.split == "train":
                    self._offset.append(offset)
                    self._length.append(length)
                else:
                    yield _HeldOut(place.split, f"{where}: {key}", os.pread(file.fileno(), length, offset))

    def arrays(self) -> dict[str, Tensor]:
        """Return the arrays of all samples read. Raises `DropError` if their number differs from the manifest."""
        for split, labels in self._labels.items():
            if len(labels) != (expected := self.drop.samples(split)):
                raise DropError(
                    f"drop {self.drop.id}: its shards contain {len(labels):,} samples of {split}, but its manifest "
                    f"says {expected:,}: pack the drop again under a new id"
                )
        return {
            "counts": _tensor(self._counts),
            "offset": _tensor(self._offset),
            "length": _tensor(self._length).int(),
            **{f"labels.{split}": _tensor(labels) for split, labels in self._labels.items()},
        }


def _tensor(numbers: "array[int]") -> Tensor:
    return torch.from_numpy(np.array(numbers))


def _decoded(held: _HeldOut, image_size: Size) -> NDArray[np.uint8]:
    try:
        return decode_image(held.image, image_size)
    except DropError as error:
        raise DropError(f"{held.name}: {error}") from error
