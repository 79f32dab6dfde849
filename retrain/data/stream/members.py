"""Where the images of a shard lie in it."""

from collections.abc import Collection, Iterator
from itertools import groupby
from operator import itemgetter
from typing import BinaryIO, NamedTuple

from webdataset.tariterators import base_plus_ext

from retrain.data.shards import READ, encoded
from retrain.data.tars import members
from retrain.errors import DropError


class Place(NamedTuple):
    """A sample, and the bytes of its image in the shard: from `offset` on, `length` of them."""

    key: str
    class_name: str
    offset: int
    length: int


def places(shard: BinaryIO, where: str, left_out: Collection[str] = ()) -> Iterator[Place]:
    """Yield the samples of a shard in its order, without those whose keys are `left_out`; no image is read.

    Raises `DropError`, naming `where`, if it is torn or a sample is not one image of a class.
    """
    for key, files in groupby(_files(shard, where), key=itemgetter(0)):
        if key not in left_out:
            yield _place(key, {extension: (offset, size) for _, extension, offset, size in files}, shard, where)


def _files(shard: BinaryIO, where: str) -> Iterator[tuple[str, str, int, int]]:
    """Key, extension, and place of every file that is read."""
    for member in members(shard, where):
        key, extension = base_plus_ext(member.name)
        if member.isreg() and key and extension.lower() in READ:
            yield key, extension.lower(), member.offset_data, member.size


def _place(key: str, files: dict[str, tuple[int, int]], shard: BinaryIO, where: str) -> Place:
    contents = {extension: _read(shard, *place) if extension == "cls" else b"" for extension, place in files.items()}
    try:
        sample = encoded(key, contents)
    except DropError as error:
        raise DropError(f"{where}: {key}: {error}") from error
    return Place(key, sample.class_name, *files[sample.extension])


def _read(shard: BinaryIO, offset: int, length: int) -> bytes:
    shard.seek(offset)
    return shard.read(length)
