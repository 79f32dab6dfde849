"""The files of a folder or of a tar, and where their bytes lie. Nothing is extracted and no link is followed."""

import os
import stat
import tarfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

from retrain.errors import DropError


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a folder below a root, which is a folder or a tar."""

    root: Path
    name: PurePosixPath
    is_folder: bool
    offset: int | None = None
    """Where its bytes start in the tar; None in a folder."""
    size: int = 0

    def read(self) -> bytes:
        """Return the file's bytes."""
        if self.offset is None:
            return (self.root / self.name).read_bytes()
        with self.root.open("rb") as tar:
            tar.seek(self.offset)
            return tar.read(self.size)

    def __str__(self) -> str:
        return f"{self.root}: {self.name}"


def list_folder(root: Path) -> Iterator[Entry]:
    """Yield every file and folder below `root`, in no particular order.

    Raises `DropError` at a link, a device or anything else that is neither, and where a folder cannot be read.
    """
    for folder, subfolders, files in os.walk(root, onerror=_unreadable):
        for path in (Path(folder, name) for name in (*subfolders, *files)):
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise DropError(f"{path}: neither a file nor a folder; links are not followed")
            yield Entry(root, _name(root, path.relative_to(root).as_posix()), stat.S_ISDIR(mode))


def list_tar(path: Path) -> Iterator[Entry]:
    """Yield every file and folder of an uncompressed tar, in its order.

    Raises `DropError` if the tar is compressed, damaged or cut short, and at members that are links or devices, or
    whose names are absolute or climb out.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not (member.isreg() or member.isdir()) or member.issparse():
                    raise DropError(f"{path}: {member.name}: neither a plain file nor a folder; links are not followed")
                name = _name(path, member.name)
                if name.parts:
                    yield Entry(path, name, member.isdir(), member.offset_data, member.size)
            _check_end(path, tar.offset)
    except (tarfile.TarError, OSError) as error:
        raise DropError(f"{path}: not a whole, uncompressed tar: {error}") from error


def _name(root: Path, raw: str) -> PurePosixPath:
    name = PurePosixPath(raw)
    if name.is_absolute() or ".." in name.parts:
        raise DropError(f"{root}: {raw}: the path leaves the source")
    if not {"Cc", "Cs"}.isdisjoint(map(unicodedata.category, raw)):
        raise DropError(f"{root}: {raw!r}: the name is not text in UTF-8, or holds control characters")
    return name


def _check_end(path: Path, offset: int) -> None:
    """Refuse what tarfile takes for the end of the archive: any header that it cannot parse, or none at all."""
    with path.open("rb") as tar:
        tar.seek(offset)
        if tar.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise DropError(f"{path}: damaged or cut short at byte {offset}")


def _unreadable(error: OSError) -> NoReturn:
    raise DropError(f"{error.filename}: {error.strerror}") from error
