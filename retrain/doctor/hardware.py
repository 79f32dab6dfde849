"""Whether this machine can hold and train what has landed: disk, device."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile

import torch

from retrain.config import Task
from retrain.data.choice import choose
from retrain.data.dataset import make_dataset
from retrain.doctor.finding import Check, Finding
from retrain.doctor.room import still_needed
from retrain.machine import cache_folder
from retrain.processors import own_cores
from retrain.records import Drop
from retrain.store.base import Store
from retrain.training.precision import SLOW, is_slow

GB = 1e9


def hardware(task: Task, store: Store, drops: Sequence[Drop]) -> Iterator[Finding]:
    """Yield what there is to say of the disk and of the device."""
    yield Check("disk", lambda: _disk(task, store, drops)).run()
    yield Check("device", lambda: _device(task)).run()


def _disk(task: Task, store: Store, drops: Sequence[Drop]) -> Finding | str:
    folder = cache_folder()
    mend = "Let $RETRAIN_CACHE name a folder that can be written and is large enough."
    if not _is_writable(folder):
        return Finding(check="disk", state="failed", found=f"{folder} cannot be written", mend=mend)
    streamed = choose(task, make_dataset(drops)).kind == "stream"
    free, needed = shutil.disk_usage(folder).free, still_needed(task, drops, streamed, store, folder)
    how = "streamed" if streamed else "decoded"
    found = f"{free / GB:.1f} GB free in {folder}; what has landed, {how}, will take {needed / GB:.2f} GB more"
    return found if free > needed else Finding(check="disk", state="failed", found=found, mend=mend)


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _device(task: Task) -> Finding | str:
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return f"{torch.cuda.get_device_name()}, {free / GB:.0f} of {total / GB:.0f} GB free"
    cores = f"no GPU; {own_cores()} CPU cores"
    if Path("/dev/nvidia0").exists():
        mend = f"There is a GPU, but torch {torch.__version__} cannot use it: bring the driver up to date."
        return Finding(check="device", state="failed", found=cores, mend=mend)
    if is_slow(task.training.bf16, torch.device("cpu")):
        return Finding(check="device", state="warning", found=f"{cores}. {SLOW}", mend="Turn it off, or use a GPU.")
    return Finding(
        check="device", state="warning", found=cores, mend="Large tasks want a GPU: --on kubeflow runs there."
    )
