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
def temp_file(fill: Callable[[BinaryIO], object], folder: Path) -> Iterator[Path]:
    """What `fill` writes, under a passing name in `folder`; removed unless it has been renamed."""
    passing = folder / f".{uuid4().hex}"
    try:
        with passing.open("xb") as file:
            fill(file)
        yield passing
    finally:
        passing.unlink(missing_ok=True)


def temp_copy(source: BinaryIO, folder: Path) -> AbstractContextManager[Path]:
    """A copy of `source`, likewise; what a power cut leaves of it is checked by whoever uses it."""
    return temp_file(lambda file: shutil.copyfileobj(source, file, BUFFER), folder)


def durable_copy(source: BinaryIO, folder: Path) -> AbstractContextManager[Path]:
    """A copy of `source`, likewise, flushed to disk: nobody has another one."""

    def fill(file: BinaryIO) -> None:
        shutil.copyfileobj(source, file, BUFFER)
        file.flush()
        os.fsync(file.fileno())

    return temp_file(fill, folder)
