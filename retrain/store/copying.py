"""Files that appear only when whole: written aside, and renamed by whoever asked for them."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

BUFFER = 1 << 20


@contextmanager
def written(fill: Callable[[BinaryIO], object], folder: Path) -> Iterator[Path]:
    """What `fill` writes, under a passing name in `folder`; removed unless it has been renamed."""
    passing = folder / f".{uuid4().hex}"
    try:
        with passing.open("xb") as file:
            fill(file)
        yield passing
    finally:
        passing.unlink(missing_ok=True)


def copied(source: BinaryIO, folder: Path) -> AbstractContextManager[Path]:
    """A copy of `source`, likewise; what a power cut leaves of it is checked by whoever uses it."""
    return written(lambda file: shutil.copyfileobj(source, file, BUFFER), folder)


def kept(source: BinaryIO, folder: Path) -> AbstractContextManager[Path]:
    """A copy of `source`, likewise, flushed to disk: nobody has another one."""

    def fill(file: BinaryIO) -> None:
        shutil.copyfileobj(source, file, BUFFER)
        file.flush()
        os.fsync(file.fileno())

    return written(fill, folder)
