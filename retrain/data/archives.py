"""Read zips and gzipped tars member by member, from a copy in an unnamed temporary file.

A stream from a store is not seekable, so every archive is copied first.
"""

import gzip
import io
import lzma
import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple, cast

from retrain.data.tars import MAX_FILE, plain_name, read_members
from retrain.errors import DropError, UserError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
CHUNK = 1 << 20
MAX_RATIO = 100
"""Number of bytes that one byte of a gzipped tar may unpack to. Images hardly compress, so a higher ratio is treated as
an attack."""
LEAST_LIMIT = 100_000_000
"""Number of bytes that a gzipped tar may unpack to regardless of `MAX_RATIO`."""
ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError),
    *(NotImplementedError, RuntimeError, ValueError, LookupError, EOFError),
)
"""Errors that zipfile raises for archives that are damaged, encrypted or of an unknown kind. bz2 raises `OSError`."""


UTF8_FLAG = 0x800
"""Bit of a member's flags that states that its name is UTF-8."""


class Member(NamedTuple):
    """A file or folder of an archive."""

    name: PurePosixPath
    is_folder: bool
    size: int
    read: Callable[[], bytes]


def is_archive(name: PurePosixPath) -> bool:
    """Return whether a file is a supported archive, by its name."""
    return name.name.lower().endswith(SUFFIXES)


def open_archive(stream: BinaryIO, where: str) -> Iterator[Member]:
    """Yield the files and folders of a zip or a gzipped tar. They can be read after the stream is closed.

    Raises `DropError`, naming `where`, if the archive is damaged or encrypted, or if it unpacks to more bytes than
    images would.
    """
    start = stream.read(4)
    if start[:2] == b"\x1f\x8b":
        yield from _gzipped_tar(_unpacked(_copy(stream, start), where), where)
    elif start[:2] == b"PK":
        yield from _zip(_copy(stream, start), where)
    else:
        raise DropError(f"{where}: neither a zip nor a gzipped tar: pack the files again in one of these formats")


class UnnamedFile(io.FileIO):
    """A temporary file without a name. It is closed when no object refers to it."""

    def __init__(self) -> None:
        descriptor, path = tempfile.mkstemp(prefix="retrain-")
        os.unlink(path)
        super().__init__(descriptor, "r+b")

    def write_all(self, data: bytes) -> None:
        """Write all bytes. `write` may write only some of them. Raises `UserError`, for example on a full disk."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self.write(rest) :]
        except OSError as error:
            raise UserError(
                f"{tempfile.gettempdir()}: cannot be written: {error.strerror}. Set $TMPDIR to another folder."
            ) from error

    def __del__(self) -> None:
        self.close()


def _copy(stream: BinaryIO, start: bytes) -> UnnamedFile:
    file = UnnamedFile()
    file.write_all(start)
    while data := stream.read(CHUNK):
        file.write_all(data)
    file.seek(0)
    return file


def _unpacked(packed: UnnamedFile, where: str) -> UnnamedFile:
    limit = max(LEAST_LIMIT, MAX_RATIO * os.fstat(packed.fileno()).st_size)
    file = UnnamedFile()
    try:
        with gzip.open(packed) as unpacking:
            while data := unpacking.read(CHUNK):
                file.write_all(data)
                if file.tell() > limit:
                    raise DropError(f"{where}: unpacks to more than {limit:,} bytes: remove files that are not images")
    except (OSError, EOFError, zlib.error) as error:
        raise DropError(f"{where}: cannot be unpacked ({error}): pack the files again") from error
    file.seek(0)
    return file


def _gzipped_tar(file: UnnamedFile, where: str) -> Iterator[Member]:
    def read(offset: int, size: int) -> bytes:
        return os.pread(file.fileno(), size, offset)

    for member in read_members(cast(BinaryIO, file), where):
        name = PurePosixPath(member.name)
        if name.parts:
            yield Member(name, member.isdir(), member.size, partial(read, member.offset_data, member.size))


def _zip(file: UnnamedFile, where: str) -> Iterator[Member]:
    try:
        archive = zipfile.ZipFile(file)
    except ZIP_ERRORS as error:
        raise DropError(f"{where}: not a complete zip ({error}): pack or upload it again") from error
    for info in archive.infolist():
        name = plain_name(_decode_name(info), where)
        mode, is_folder = info.external_attr >> 16, info.filename.endswith("/")
        if not name.parts and not is_folder:
            raise DropError(f"{where}: a file in it has no name: pack the files again")
        if not is_folder and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise DropError(f"{where}: {name}: a link or a special file; replace it by a regular file, or remove it")
        if info.flag_bits & 1:
            raise DropError(f"{where}: {name}: encrypted; upload it without a password")
        if info.file_size > MAX_FILE:
            raise DropError(
                f"{where}: {name}: {info.file_size:,} bytes; at most {MAX_FILE:,} are allowed: remove this file"
            )
        if name.parts:
            yield Member(name, is_folder, info.file_size, partial(_read_zipped, archive, info, where))


def _decode_name(info: zipfile.ZipInfo) -> str:
    """Return a member's name. Info-ZIP and macOS write UTF-8 without its flag, and zipfile then reads it as CP437."""
    if info.flag_bits & UTF8_FLAG:
        return info.filename
    try:
        return info.filename.encode("cp437").decode()
    except UnicodeError:
        return info.filename


def _read_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> bytes:
    try:
        with archive.open(info) as member:
            return member.read(MAX_FILE + 1)
    except ZIP_ERRORS as error:
        raise DropError(f"{where}: {_decode_name(info)}: {error}") from error
