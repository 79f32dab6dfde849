"""Check that this machine has the disk space and the device to train on the committed drops."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile

import torch

from retrain.config import SPLITS, Split
from retrain.config.fields import parse_bytes
from retrain.config.task import Task
from retrain.data.dataset import choose_loading, decoded_bytes, make_dataset
from retrain.data.decoded import cache_path
from retrain.data.local_cache import cache_folder
from retrain.data.stream.catalogue import catalogue_files
from retrain.data.stream.reading import HELD_OUT, shard_refs
from retrain.data.stream.shard_cache import WHOLE, ShardCache
from retrain.doctor import Check, Finding
from retrain.records import Drop
from retrain.store.task_store import TaskStore
from retrain.training.hardware import BF16_SLOW, is_bf16_slow
from retrain.utils.processes import available_cores

GB = 1e9


def check_machine(task: Task, store: TaskStore, drops: Sequence[Drop]) -> Iterator[Finding]:
    """Yield findings about the disk and the device."""
    yield Check("disk", lambda: _check_disk(task, store, drops)).run()
    yield Check("device", lambda: _check_device(task)).run()


def _check_disk(task: Task, store: TaskStore, drops: Sequence[Drop]) -> Finding | str:
    folder = cache_folder()
    mend = "Set $RETRAIN_CACHE to a folder that is writable and large enough."
    if not _is_writable(folder):
        return Finding(check="disk", state="failed", found=f"{folder} cannot be written", mend=mend)
    streamed = choose_loading(task, make_dataset(drops)).kind == "stream"
    free, needed = shutil.disk_usage(folder).free, disk_bytes_needed(task, drops, streamed, store, folder)
    how = "streamed" if streamed else "decoded"
    found = f"{free / GB:.1f} GB free in {folder}; {how} drops that are not cached yet need {needed / GB:.2f} GB"
    return found if free > needed else Finding(check="disk", state="failed", found=found, mend=mend)


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _check_device(task: Task) -> Finding | str:
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return f"{torch.cuda.get_device_name()}, {free / GB:.0f} of {total / GB:.0f} GB free"
    cores = f"no GPU; {available_cores()} CPU cores"
    if Path("/dev/nvidia0").exists():
        found = f"the machine has a GPU, but torch {torch.__version__} cannot use it"
        mend = "Update the NVIDIA driver, or install a torch that was built for the driver's version of CUDA."
        return Finding(check="device", state="failed", found=found, mend=mend)
    if is_bf16_slow(task.training.bf16, torch.device("cpu")):
        return Finding(
            check="device",
            state="warning",
            found=f"{cores}. {BF16_SLOW}",
            mend="Set training.bf16 to false, or use a GPU.",
        )
    return Finding(
        check="device", state="warning", found=cores, mend="Train large tasks on a GPU, for example with --on kubeflow."
    )


def disk_bytes_needed(task: Task, drops: Sequence[Drop], streamed: bool, store: TaskStore, folder: Path) -> int:
    """Return the bytes that the cache folder needs in addition to the files that it already has.

    Without streaming, the cache stores every split of a drop as uint8 pixels of the network's input size. With
    streaming, it stores the pixels of the held-out splits, and shards up to `data.stream.cache`.
    """
    if streamed:
        return _shard_bytes(task, drops, store, folder) + sum(_held_out_bytes(task, drops, folder))
    files = (
        (cache_path(drop, task.data.frame, folder, split), _decoded_bytes(task, drop, (split,)))
        for drop in drops
        for split in SPLITS
    )
    return sum(max(0, size - _file_size(path)) for path, size in files)


def _held_out_bytes(task: Task, drops: Sequence[Drop], folder: Path) -> Iterator[int]:
    for drop in drops:
        files = catalogue_files(drop, task.data.frame, folder)
        yield from (max(0, _decoded_bytes(task, drop, (split,)) - _file_size(files[split])) for split in HELD_OUT)


def _decoded_bytes(task: Task, drop: Drop, splits: Sequence[Split]) -> int:
    return decoded_bytes(sum(map(drop.samples, splits)), task.data.frame)


def _shard_bytes(task: Task, drops: Sequence[Drop], store: TaskStore, folder: Path) -> int:
    cache = ShardCache(store.objects, folder / "shards", parse_bytes(task.data.stream.cache))
    missing = sum(
        ref.shard.size
        for ref in chain.from_iterable(shard_refs(drop, store.keys) for drop in drops)
        if not cache.path(ref).exists()
    )
    return min(missing, max(0, cache.limit - sum(map(_file_size, cache.folder.glob(f"*{WHOLE}")))))


def _file_size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
