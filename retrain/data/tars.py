"""Read untrusted tar files as a stream. Nothing is extracted, sizes are checked, and a missing end is an error."""

import hashlib
import tarfile
import unicodedata
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, Self, cast

from retrain.errors import DropError

MAX_FILE = 64_000_000
"""Largest file in a drop, in bytes. Several files are in memory at once."""
MAX_NAME = 4096
"""Longest name, in bytes."""
MAX_HEADER = 16_384
"""Largest extended header, in bytes. tarfile keeps it in memory, and its parsing time may grow with the square of its
size."""

TAR_ERRORS = (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError)
"""Errors that tarfile's parser raises for damaged tar files."""


class _Header(tarfile.TarInfo):
    """A header that is checked before tarfile parses it. tarfile would treat a damaged header as the archive's end."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # typeshed leaves it out
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"cut short, or {error}") from error

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        """Check the size that a header states. Every version of tarfile calls this before it reads the member."""
        _check_size(self, MAX_FILE if self.type in tarfile.REGULAR_TYPES else MAX_HEADER)
        return super()._proc_member(tar)  # type: ignore[misc,no-any-return]  # typeshed leaves it out


def read_members(stream: "BinaryIO | HashingReader", where: str) -> Iterator[tarfile.TarInfo]:
    """Yield the files and folders of an uncompressed tar in their order. The caller may read a member from the stream.

    Raises `DropError`, with `where`, if the tar is compressed, damaged or cut short. Also raises it if anything follows
    the tar, such as a second tar, because readers would miss it. Also raises it for links, devices and members larger
    than `MAX_FILE`, and for names that are absolute or contain `..`.
    """
    try:
        with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r:", tarinfo=_Header) as tar:
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # typeshed leaves it out; the list would only grow
                _check_size(member, MAX_FILE)  # extended headers may have changed it
                if not (member.isreg() or member.isdir()) or member.issparse():
                    raise DropError(
                        f"{where}: {member.name}: a link or a special file; replace it by a regular file, or remove it"
                    )
                check_name(member.name, where)
                yield member
        while rest := stream.read(1 << 20):
            if rest.strip(b"\0"):
                raise tarfile.ReadError("something follows its end, such as another tar")
    except TAR_ERRORS as error:
        raise DropError(f"{where}: not a complete, uncompressed tar: {error}. Pack or upload it again") from error


def plain_name(raw: str, where: str) -> PurePosixPath:
    """Return a name as a path. Raises the errors of `check_name`."""
    check_name(raw, where)
    return PurePosixPath(raw)


def check_name(raw: str, where: str) -> None:
    """Raise `DropError`, with `where`, for a name that is not text, is too long, is absolute or contains `..`."""
    text = raw.removesuffix("Icon\r")  # the name of a folder's icon on macOS
    if raw.startswith("/") or ".." in raw.split("/"):
        raise DropError(f"{where}: {raw}: the path is absolute or contains '..': use a relative path")
    if not (text.isprintable() or {"Cc", "Cs"}.isdisjoint(map(unicodedata.category, text))):
        raise DropError(f"{where}: {raw!r}: the name is not text in UTF-8, or contains control characters: rename it")
    if len(raw.encode()) > MAX_NAME:
        raise DropError(f"{where}: {raw[:40]}...: the name has more than {MAX_NAME:,} bytes: shorten it")


def _check_size(member: tarfile.TarInfo, limit: int) -> None:
    if not 0 <= member.size <= limit:
        raise tarfile.ReadError(f"{member.name}: {member.size:,} bytes; 0 to {limit:,} are allowed")


class HashingReader:
    """A stream that is read once from its start to its end. It records the size and SHA-256 of the bytes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._sha256, self.size = stream, hashlib.sha256(), 0

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        data = self._stream.read(size)
        self._sha256.update(data)
        self.size += len(data)
        return data

    def tell(self) -> int:
        """Return the number of bytes read so far."""
        return self.size

    def seek(self, position: int) -> None:
        """Read and discard the bytes up to a position. Raises `ValueError` if the stream is already beyond it."""
        if position < self.size:
            raise ValueError("a header of the archive points to an earlier position in the file")
        while self.size < position and self.read(min(position - self.size, 1 << 20)):
            pass

    @property
    def sha256(self) -> str:
        """Return the digest of the bytes read so far, in hex."""
        return self._sha256.hexdigest()
