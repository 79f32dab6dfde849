"""Report errors of standard output as one message, and choose its encoding: UTF-8 for JSON and CSV."""

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any, TextIO, cast

from retrain.errors import UserError


class OutputError(UserError):
    """Standard output cannot be written."""


class CheckedOutput(io.FileIO):
    """The file of standard output.

    Raises `OutputError` if a write fails, for example on a full disk. A closed pipe still raises an `OSError`.
    """

    def write(self, data: Any, /) -> int:
        """Write, as `FileIO` does."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno == errno.EPIPE:  # typer handles it: `retrain history | head` is no error
                raise
            _discard_output()
            raise OutputError(f"standard output cannot be written: {error.strerror}") from error


def _discard_output() -> None:
    """Discard buffered output. Python would flush it at exit and print a traceback."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.__stdout__.fileno() if sys.__stdout__ else 1)
    os.close(nowhere)


def open_closed_streams() -> None:
    """Open /dev/null for each standard stream that the caller has closed. Python sets such a stream to None."""
    sys.stdin = sys.stdin or _open_null("r")
    sys.stdout = sys.stdout or _open_null("w")
    sys.stderr = sys.stderr or _open_null("w")


def _open_null(mode: str) -> TextIO:
    """Open /dev/null, with an encoding that has all characters in every locale."""
    return cast(TextIO, Path(os.devnull).open(mode, encoding="utf-8", errors="surrogateescape"))


def check_output() -> None:
    """Replace `sys.stdout` by a stream that raises `OutputError` and replaces characters that the encoding lacks."""
    stdout = sys.stdout
    if stdout is not sys.__stdout__ or not isinstance(stdout, io.TextIOWrapper):
        return  # a test has replaced it, or the caller has closed it
    stdout.flush()
    checked = io.BufferedWriter(CheckedOutput(stdout.fileno(), "w", closefd=False))
    sys.stdout = io.TextIOWrapper(checked, stdout.encoding, "replace", line_buffering=stdout.line_buffering)


def write_utf8() -> None:
    """Write standard output in UTF-8 from now on, in every locale, because programs read it.

    A path that the locale's encoding cannot express is written with its own bytes.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
