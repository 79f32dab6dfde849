"""Run commands in this process, in a separate process, or at a terminal of a given width."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from retrain.cli import main
from support.processes import preloaded_retrain


class Ran(NamedTuple):
    """The exit code of a command, and its output."""

    code: int
    out: str
    err: str


def retrain(arguments: Sequence[str], output: pytest.CaptureFixture[str]) -> Ran:
    """Run a command in this process."""
    output.readouterr()
    code = call(arguments)
    said = output.readouterr()
    return Ran(code, said.out, said.err)


def call(arguments: Sequence[str]) -> int:
    """Run a command in this process, and return its exit code."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["retrain", *arguments])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        finally:
            signal.signal(signal.SIGTERM, before)
    raise AssertionError("the command returned without SystemExit")


def start(*arguments: str) -> Ran:
    """Run a command in a separate process, with its output in pipes."""
    ended = subprocess.run([preloaded_retrain(), *arguments], capture_output=True, text=True, timeout=240)
    return Ran(ended.returncode, ended.stdout, ended.stderr)


def at_terminal(width: int, *arguments: str, typed: str = "", code: int = 0) -> list[str]:
    """Run a command at a terminal of this width, with `typed` as its input. It must exit with `code`.

    Returns every line of its output without colours. Lines that were drawn again occur several times.
    """
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [preloaded_retrain(), *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**environment, "TERM": "xterm"},
    )
    os.close(terminal)
    os.write(controller, typed.encode())
    written = b"".join(iter(lambda: _read(controller), b""))
    os.close(controller)
    assert process.wait(timeout=240) == code, written.decode()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())
    return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # Linux reports this when the last process at the terminal has ended
        return b""
