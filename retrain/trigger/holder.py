"""Who holds a lease: one process, told apart from all others everywhere."""

import os
import socket
from pathlib import Path
from uuid import uuid4

from retrain.records import Record

BOOT, SPACE = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")


class Holder(Record):
    """A process, by where its number means something."""

    host: str
    pid: int
    machine: str | None
    """One boot of one kernel and one space of process numbers in it; None where the system does not tell."""
    name: str
    """One of its holdings."""

    def __str__(self) -> str:
        return f"{self.host} (process {self.pid})"

    def is_gone(self) -> bool:
        """Whether it can be seen from here that the process has ended; False also where nothing can be seen."""
        return self.machine is not None and self.machine == _machine() and not Path(f"/proc/{self.pid}").exists()


def here() -> Holder:
    """Return this process as a new holder."""
    return Holder(host=socket.gethostname(), pid=os.getpid(), machine=_machine(), name=uuid4().hex[:8])


def _machine() -> str | None:
    try:
        return f"{socket.gethostname()}/{BOOT.read_text().strip()}/{SPACE.stat().st_ino}"
    except OSError:
        return None
