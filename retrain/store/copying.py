"""Files that appear only when whole: written aside, flushed to disk, and renamed by whoever asked for them."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


@contextmanager
def written(fill: Callable[[BinaryIO], object], folder: Path) -> Iterator[Path]:
    """What `fill` writes, under a passing name in `folder`, flushed to disk; removed unless it has been renamed."""
    passing = folder / f".{uuid4().hex}"
    try:
        with passing.open("xb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        yield passing
    finally:
        passing.unlink(missing_ok=True)


def copied(source: BinaryIO, folder: Path) -> AbstractContextManager[Path]:
    """A copy of `source`, likewise."""
    return written(lambda file: shutil.copyfileobj(source, file, 1 << 20), folder)
