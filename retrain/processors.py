"""How many cores are this process's own: what a machine has may be shared, and a container allowed a part of it."""

import math
import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Where Linux tells a container its quota."""


def own_cores() -> int:
    """Return how many cores each process has of those that share this machine, LOCAL_WORLD_SIZE of them; 1 at least."""
    allowed = min(len(os.sched_getaffinity(0)), _quota())
    return max(1, int(allowed) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def _quota() -> float:
    """How many cores' time this container may take, which limits no affinity."""
    try:
        quota, period = QUOTA.read_text().split()
    except OSError:
        return math.inf
    return math.inf if quota == "max" else math.ceil(int(quota) / int(period))
