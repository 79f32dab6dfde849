"""Files that appear only when whole: written aside, flushed to disk, and renamed by whoever asked for them."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


@contextmanager
def copied(source: BinaryIO, folder: Path) -> Iterator[Path]:
    """A copy of `source` under a passing name in `folder`, flushed to disk; removed unless it has been renamed."""
    copy = folder / f".{uuid4().hex}"
    try:
        with copy.open("xb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        yield copy
    finally:
        copy.unlink(missing_ok=True)
