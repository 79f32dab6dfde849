"""Standard output that ends a command with one message where it cannot be written, whatever its encoding."""

import errno
import io
import os
import sys
from typing import Any

from retrain.errors import UserError


class OutputError(UserError):
    """Standard output cannot be written."""


class CheckedOutput(io.FileIO):
    """Standard output's file. Raises `OutputError` where it is full; a closed pipe remains an `OSError`."""

    def write(self, data: Any, /) -> int:
        """Write, as `FileIO` does."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno == errno.EPIPE:  # `retrain history | head`: no error, which typer knows
                raise
            _discard_output()
            raise OutputError(f"standard output cannot be written: {error.strerror}") from error


def _discard_output() -> None:
    """Discard buffered output: Python would flush it at exit and end with a traceback."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.__stdout__.fileno() if sys.__stdout__ else 1)
    os.close(nowhere)


def check_output() -> None:
    """Have standard output report its errors, and replace what its encoding lacks."""
    stdout = sys.stdout
    if stdout is None or stdout is not sys.__stdout__ or not isinstance(stdout, io.TextIOWrapper):
        return  # a test has replaced it
    stdout.flush()
    checked = io.BufferedWriter(CheckedOutput(stdout.fileno(), "w", closefd=False))
    sys.stdout = io.TextIOWrapper(checked, stdout.encoding, "replace", line_buffering=stdout.line_buffering)
