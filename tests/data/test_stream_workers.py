"""The workers of a stream survive the signals of a preemption, and never keep a process from ending."""

import errno
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
import torch
from support.processes import forkserver
from support.streams import SETTING, streaming, two_drops
from support.trainings import CPU
from torch import Tensor

from retrain.data.augment import Rows
from retrain.data.stream.order import window_shuffle
from retrain.data.stream.shard_cache import SHARDS_AHEAD
from retrain.errors import StoreError, TaskError, UserError
from retrain.pipeline.stages import is_permanent
from retrain.store import LocalStore
from retrain.training.loaders import EpochSampler, Position
from retrain.training.streaming import BATCHES_AHEAD, StreamingLoader, check_room, explain_lost_worker
from retrain.utils.processes import WorkerCrashed

BATCH, WORKERS = 16, 2
SHARD_FILE = 40_960
"""Size of a full shard of the drops, in bytes."""
BATCHES = 60
"""Number of batches in three epochs."""


def stream(folder: Path, cache: str = "2Mi", seed: int = 7) -> StreamingLoader:
    store = LocalStore(folder / "store")
    two_drops(store, folder)
    train = streaming(store, folder / "cache", SETTING.model_copy(update={"cache": cache}))["train"]
    arrange = partial(window_shuffle, counts=train.images.counts, window=SETTING.shuffle_shards)
    sampler = EpochSampler(None, len(train), BATCH, seed, CPU, arrange)
    return StreamingLoader(sampler, train, train.images, Rows(0, BATCH, BATCH), WORKERS)


def workers() -> list[int]:
    pids = [child.pid for child in multiprocessing.active_children() if isinstance(child, ForkProcess) and child.pid]
    assert len(pids) == WORKERS
    return pids


def signal_all(signum: signal.Signals) -> None:
    for pid in workers():
        os.kill(pid, signum)


def test_workers_decode_on_after_sigterm_and_ctrl_c(tmp_path: Path) -> None:
    with closing(stream(tmp_path)) as loader:
        for _ in range(WORKERS):  # batch by batch, the workers take turns, so all have started
            loader.next()
        signal_all(signal.SIGTERM)
        signal_all(signal.SIGINT)
        batches = [loader.next() for _ in range(2 * WORKERS * BATCHES_AHEAD)]
        assert all(len(batch.images) == BATCH for batch in batches)
        workers()


def lose_a_worker(folder: Path) -> None:
    with closing(stream(folder)) as loader:
        loader.next()
        os.kill(workers()[0], signal.SIGKILL)  # as the kernel does if memory is short
        while True:
            loader.next()


def test_process_that_loses_a_worker_ends(tmp_path: Path) -> None:
    process = forkserver().Process(target=lose_a_worker, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 1


def leave_loader_open(folder: Path) -> None:
    loader = stream(folder)
    loader.next()
    raise RuntimeError  # as torch does for a lost worker, at any statement, even before `close`


def test_process_ends_although_its_loader_was_not_closed(tmp_path: Path) -> None:
    process = forkserver().Process(target=leave_loader_open, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 1


def explain_and_retry(folder: Path) -> None:
    """Lose a worker. Write the error and whether the run is retried after it."""
    try:
        with explain_lost_worker():
            lose_a_worker(folder)
    except WorkerCrashed as error:
        (folder / "error").write_text(f"{error}\n{not is_permanent(error)}")


def test_lost_worker_gives_advice_and_allows_a_retry(tmp_path: Path) -> None:
    process = forkserver().Process(target=explain_and_retry, args=(tmp_path,))
    process.start()
    process.join()
    message, is_retried = (tmp_path / "error").read_text().splitlines()
    assert re.match(r"a process that decodes images has ended: .*If memory was short, .*data\.stream\.workers", message)
    assert is_retried == "True"


class Severed(StreamingLoader):
    """A loader whose worker dies while it sends the second batch."""

    def _workers(self) -> Iterator[Tensor]:  # type: ignore[override]
        for rows in self._batches():
            yield self.pixels[torch.tensor(rows)]
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


def test_worker_that_is_lost_while_sending_is_explained(tmp_path: Path) -> None:
    whole = stream(tmp_path)
    with closing(Severed(whole.sampler, whole.train, whole.pixels, whole.rows, WORKERS)) as loader:
        loader.next()
        with pytest.raises(WorkerCrashed, match=r"has ended: .*Connection reset by peer\. If memory was short"):
            loader.next()


def test_run_can_resume_after_its_cache_was_emptied(tmp_path: Path) -> None:
    with closing(stream(tmp_path)) as loader:
        loader.next()
        shutil.rmtree(loader.pixels.cache.folder)
        with pytest.raises(
            StoreError, match=r"No such file .*\$RETRAIN_CACHE during a run\. Then run the command again"
        ):
            take(loader, BATCHES)


def take(loader: StreamingLoader, batches: int) -> None:
    """Take batches. After each of them, read the first sample of every shard, as an evaluation would."""
    counts = loader.pixels.counts
    for _ in range(batches):
        loader.next()
        loader.train.pixels(counts.cumsum(0) - counts)


def test_smallest_allowed_cache_holds_all_shards_in_use(tmp_path: Path) -> None:
    """With this seed, the batches in progress once need 21 shards, at the end of an epoch. Their mean number is 20."""
    small = stream(tmp_path, f"{20 * SHARD_FILE}", seed=28)
    room = small.pixels, SETTING.shuffle_shards, len(small.train), BATCH, WORKERS
    with closing(small), pytest.raises(UserError, match="no room"):
        take(small, BATCHES)
    with pytest.raises(TaskError, match=r"data\.stream\.cache: .* too small for the 20 shards .*workers \(2\)"):
        check_room(*room)
    small.pixels.cache.limit = (20 + 1 + SHARDS_AHEAD) * SHARD_FILE
    check_room(*room)
    small.seek(Position(0, 0))
    with closing(small):
        take(small, BATCHES)
