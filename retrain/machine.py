"""What this machine offers to a run: a device, threads, a folder for decoded drops, and somebody who watches."""

import os
from pathlib import Path

import torch

from retrain.config import Task
from retrain.context import Context
from retrain.errors import UserError
from retrain.layout import Layout
from retrain.observe.audience import Audience, gather
from retrain.processors import own_cores
from retrain.store.base import Store
from retrain.training.distributed import join

LOOPBACK = "127.0.0.1"


def make_context(
    store: Store, task: Task, device: str, metrics_port: int | None = None, metrics_host: str = LOOPBACK
) -> Context:
    """Return where stages work, on a device, watched on this terminal and, with a port, at /metrics.

    Of several processes that torchrun started, only the first is watched.
    """
    _limit_threads()
    ranks = join(device)
    observer = Audience() if ranks.rank else gather(metrics_port, metrics_host)
    factories = frozenset({task.model.name, *task.factories})
    return Context(store, Layout(task.name), pick_device(device), cache_folder(), observer, ranks, factories)


def _limit_threads() -> None:
    """Compute in no more threads than this process has cores: beyond a quota they are stopped, and wait for each other.

    OMP_NUM_THREADS is somebody's word on it and stands.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), own_cores()))


def cache_folder() -> Path:
    """Return where decoded drops are kept: $RETRAIN_CACHE, or retrain/ in the user's cache folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("RETRAIN_CACHE") or home / "retrain")


def pick_device(name: str) -> torch.device:
    """Return the named device. Raises `UserError` if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}; allowed: auto, cpu, cuda, cuda:N") from error
    return device
