"""Measure the cost of work or of a process: wall time (longer if other programs run), processor time, and memory."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

Result = TypeVar("Result")


class Spent(NamedTuple, Generic[Result]):
    """Result of some work, its wall and processor seconds, and its peak memory minus the memory before, in bytes."""

    result: Result
    wall: float
    cpu: float
    memory: int

    def seconds(self) -> dict[str, float]:
        """Return wall and processor time, rounded."""
        return {"wall": round(self.wall, 3), "cpu": round(self.cpu, 3)}

    def each(self, n: int) -> dict[str, float]:
        """Return wall and processor time for each of n samples, in nanoseconds."""
        return {"wall": round(1e9 * self.wall / n, 1), "cpu": round(1e9 * self.cpu / n, 1)}

    def bytes_each(self, n: int) -> float:
        """Return the memory for each of n samples, in bytes."""
        return round(self.memory / n, 1)


def spent(work: Callable[[], Result]) -> Spent[Result]:
    """Do some work, and return its result and cost."""
    before, wall, cpu = _resident("VmRSS"), time.perf_counter(), time.process_time()
    forget_peak()
    result = work()
    return Spent(result, time.perf_counter() - wall, time.process_time() - cpu, _resident("VmHWM") - before)


def forget_peak() -> None:
    """Reset the peak memory of this process to its present memory."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb(process: int | str = "self") -> float:
    """Return the peak resident memory of a running process, in MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return round(int(status.partition("VmHWM:")[2].split()[0]) / 1024, 1)


def processor_seconds(process: int) -> float:
    """Return the processor time of a running process.

    It is the sum of two fields of its stat file after its name. The name may contain spaces.
    """
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(which: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(which))
