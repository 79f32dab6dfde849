"""Ports for servers that tests start."""

import errno
import socket
from random import SystemRandom

PORTS = range(10_000, 32_768)
"""Below those that Linux gives to clients and to servers on port 0, which would take a port between look and use."""


def free_port() -> int:
    """Return a free port that the system gives to no other process."""
    while True:
        port = SystemRandom().choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
