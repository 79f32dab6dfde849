"""Write files that appear only when they are complete: under a temporary name first. The caller renames them.

A reader never sees half a file, and a crash leaves nothing under the final name.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

BUFFER = 1 << 20
"""Bytes that are copied at a time."""
TEMPORARY = re.compile(r"\.[0-9a-f]{32}")
"""Names of temporary files. A killed process leaves such files."""


@contextmanager
def temp_file(fill: Callable[[BinaryIO], object], folder: Path) -> Iterator[Path]:
    """Yield a temporary file in `folder`, written by `fill`. It is removed unless the caller renames it."""
    temporary = folder / f".{uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            fill(file)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def temp_copy(source: BinaryIO, folder: Path) -> AbstractContextManager[Path]:
    """Yield a temporary copy of `source`. It is not flushed to disk: readers detect a copy that a power cut damaged."""
    return temp_file(lambda file: shutil.copyfileobj(source, file, BUFFER), folder)


def durable_copy(source: BinaryIO, folder: Path) -> AbstractContextManager[Path]:
    """Yield a temporary copy of `source` that is flushed to disk, because there is no other copy."""

    def fill(file: BinaryIO) -> None:
        shutil.copyfileobj(source, file, BUFFER)
        file.flush()
        os.fsync(file.fileno())

    return temp_file(fill, folder)
