"""WebDataset shards: tar files in which a sample is `key.png` (the original image) and `key.cls` (its class name)."""

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain, count, groupby
from operator import itemgetter
from pathlib import Path, PurePosixPath
from tarfile import TarInfo
from typing import BinaryIO, NamedTuple

from retrain.config import Split
from retrain.data.images import EXTENSIONS
from retrain.data.tars import HashingReader, read_members
from retrain.errors import DropError, UserError
from retrain.records import Shard
from retrain.records.drop import clean_class_name
from retrain.store.keys import name_shard
from retrain.utils.text import pluralize

SHARD_BYTES = 64_000_000
"""Number of bytes of images after which a shard ends."""
BUFFER_BYTES = 1 << 20
"""Number of bytes that are written to a shard at once. Each write may wait for a thread that decodes images."""
READ = EXTENSIONS | {"cls"}
"""Extensions of a sample's files that are read. Producers may add other files."""
NAME = re.compile(r"((?:.*/)?[^.]+)\.([^/]*)")
"""WebDataset's rule: a sample's key ends at the first dot after the last slash."""
FIRST = frozenset({"bmp", "jpeg", "jpg", "png", "webp"})
"""Extensions that take precedence if a key has several images. Earlier versions read only these extensions."""


class Encoded(NamedTuple):
    """One sample of a shard: key, class name, and the bytes of the image's file with their extension."""

    key: str
    class_name: str
    extension: str
    data: bytes


def write_shards(samples: Iterable[Encoded], split: Split, folder: Path, limit: int = SHARD_BYTES) -> Iterator[Shard]:
    """Write samples into `folder` as shards of about `limit` bytes of images, and yield each after it is written.

    The same samples give the same bytes. Raises `UserError` if a shard cannot be written, for example on a full disk.
    """
    stream = iter(samples)
    for number in count():
        first = next(stream, None)
        if first is None:
            return
        yield _write_shard(_take(chain([first], stream), limit), split, number, folder)


def _take(stream: Iterator[Encoded], limit: int) -> Iterator[Encoded]:
    taken = 0
    while taken < limit and (sample := next(stream, None)):
        taken += len(sample.data)
        yield sample


def _write_shard(samples: Iterator[Encoded], split: Split, number: int, folder: Path) -> Shard:
    """Write one shard and return its record."""
    path = folder / "unnamed.tar"
    written = _write_tar(samples, path)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    path = path.rename(folder / name_shard(split, number, sha256))
    return Shard(name=path.name, split=split, samples=written, size=path.stat().st_size, sha256=sha256)


def _write_tar(samples: Iterator[Encoded], path: Path) -> int:
    """Write a shard. Every field of a header is fixed, so equal samples give equal bytes.

    The format is PAX because other formats refuse long names.
    """
    from webdataset.writer import TarWriter  # only writing needs it, and its import of torch takes seconds

    fixed = {"user": "", "group": "", "mode": 0o444, "mtime": 0, "format": "PAX_FORMAT"}
    written = 0
    try:
        with path.open("wb", BUFFER_BYTES) as file, TarWriter(file, encoder=False, **fixed) as tar:
            for sample in samples:
                tar.write({"__key__": sample.key, sample.extension: sample.data, "cls": sample.class_name.encode()})
                written += 1
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}. Set $TMPDIR to another folder.") from error
    return written


def split_name(name: str) -> tuple[str, str] | None:
    """Return the key and the extension of a sample's file, or None for a name that is not `key.extension`."""
    found = NAME.fullmatch(name)
    return (found[1], found[2]) if found else None


def read_shard(stream: BinaryIO, shard: Shard, where: str, left_out: Collection[str] = ()) -> Iterator[Encoded]:
    """Yield the samples of a shard while it is read, without the samples whose keys are in `left_out`.

    Raises `DropError`, with `where` in its message, if the tar is incomplete, or if a sample does not have exactly one
    image and a valid class name. It also raises at the end if size, SHA-256 or number of samples differ from the
    manifest. A shard is therefore valid only if the iteration ends without an error.
    """
    reader, samples = HashingReader(stream), 0
    for key, files in read_samples(reader, where):
        if key not in left_out:
            samples += 1
            yield _named(where, key, files)
    if (samples, reader.size, reader.sha256) != (shard.samples, shard.size, shard.sha256):
        raise DropError(
            f"{where}: {samples} samples in {reader.size} bytes with SHA-256 {reader.sha256}; the manifest "
            f"says {shard.samples}, {shard.size} and {shard.sha256}. Restore the file from a copy of the store, or "
            "upload the drop again under a new id"
        )


def _named(where: str, key: str, files: Mapping[str, bytes]) -> Encoded:
    try:
        return encoded(key, files)
    except DropError as error:
        raise DropError(f"{where}: {key}: {error}") from error


def read_samples(stream: HashingReader, where: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the samples of a shard without a manifest: their keys, and their files by extension.

    Raises `DropError`, with `where` in its message, if the tar is incomplete, or a name is not `key.extension`.
    """
    return group_files(_files(stream, where), where)


def group_files(files: Iterable[tuple[str, str, bytes]], where: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Group files into samples, and yield each sample's key and its bytes by extension.

    `files` has (key, extension, bytes) in the order of the tar.

    Raises `DropError`, with `where` in its message, if a sample has two files with one extension.
    """
    for key, group in groupby(files, key=itemgetter(0)):
        sample: dict[str, bytes] = {}
        for _, extension, data in group:
            if extension in sample:
                raise DropError(f"{where}: {key}.{extension}: duplicate file: keep one of them")
            sample[extension] = data
        yield key, sample


def _files(stream: HashingReader, where: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield the key, extension and bytes of each file with an extension in `READ`."""
    for member in filter(TarInfo.isreg, read_members(stream, where)):
        named = split_name(member.name)
        if named is None:
            raise DropError(f"{where}: {member.name}: not a sample's file: the name must be key.extension")
        key, extension = named
        if extension.lower() in READ:
            yield key, extension.lower(), read_member(stream, member, where)


def read_member(stream: HashingReader, member: TarInfo, where: str) -> bytes:
    """Return the bytes of a tar's next member. Raises `DropError`, with the member's name, if it is cut off."""
    stream.seek(member.offset_data)
    data = stream.read(member.size)
    if len(data) < member.size:
        raise DropError(f"{where}: {member.name}: the tar ends in the middle of this file: upload it again")
    return data


def encoded(key: str, files: Mapping[str, bytes]) -> Encoded:
    """Return a sample from its key and files. Without a file `cls`, its class is the name of its folder.

    Raises `DropError`, without the sample's name, if it has not exactly one image and a valid class name.
    """
    images = sorted(FIRST & files.keys()) or sorted(EXTENSIONS & files.keys())
    if len(images) != 1:
        raise DropError(
            f"it has {pluralize(len(images), 'image')}, but a sample needs one ({', '.join(sorted(EXTENSIONS))})"
        )
    try:
        label = files["cls"].decode() if "cls" in files else PurePosixPath(key).parent.name
    except UnicodeDecodeError as error:
        raise DropError("its class name is not text in UTF-8: save the file again in UTF-8") from error
    return Encoded(key, clean_class_name(label), images[0], files[images[0]])


class ImageLocation(NamedTuple):
    """A sample, and the place of its image in the shard: `length` bytes from `offset` on."""

    key: str
    class_name: str
    offset: int
    length: int


def image_locations(shard: BinaryIO, where: str, left_out: Collection[str] = ()) -> Iterator[ImageLocation]:
    """Yield the samples of a shard in its order, without reading images.

    Samples whose keys are in `left_out` are skipped. Raises `DropError`, with `where` in its message, if the tar is
    incomplete or a sample does not have exactly one image and a valid class name.
    """
    for key, files in groupby(_file_locations(shard, where), key=itemgetter(0)):
        if key not in left_out:
            yield _locate_image(key, {extension: (offset, size) for _, extension, offset, size in files}, shard, where)


def _file_locations(shard: BinaryIO, where: str) -> Iterator[tuple[str, str, int, int]]:
    """Yield the key, extension, offset and size of each file with an extension in `READ`."""
    for member in read_members(shard, where):
        named = split_name(member.name)
        if member.isreg() and named and named[1].lower() in READ:
            yield named[0], named[1].lower(), member.offset_data, member.size


def _locate_image(key: str, files: dict[str, tuple[int, int]], shard: BinaryIO, where: str) -> ImageLocation:
    contents = {
        extension: _read_range(shard, *place) if extension == "cls" else b"" for extension, place in files.items()
    }
    try:
        sample = encoded(key, contents)
    except DropError as error:
        raise DropError(f"{where}: {key}: {error}") from error
    return ImageLocation(key, sample.class_name, *files[sample.extension])


def _read_range(shard: BinaryIO, offset: int, length: int) -> bytes:
    shard.seek(offset)
    return shard.read(length)
