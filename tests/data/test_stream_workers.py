"""The workers of a stream survive the signals of a preemption, and never keep a process from ending."""

import multiprocessing
import os
import signal
from contextlib import closing
from functools import partial
from multiprocessing.context import ForkProcess
from pathlib import Path

from support.processes import forkserver
from support.streams import SETTING, streaming, two_drops
from support.trainings import CPU

from retrain.data.augment import Rows
from retrain.data.stream.order import window_shuffle
from retrain.store import LocalStore
from retrain.training.loaders import EpochSampler
from retrain.training.streaming import BATCHES_AHEAD, StreamingLoader

BATCH, WORKERS = 16, 2


def stream(folder: Path) -> StreamingLoader:
    store = LocalStore(folder / "store")
    two_drops(store, folder)
    train = streaming(store, folder / "cache", SETTING.model_copy(update={"cache": "2Mi"}))["train"]
    arrange = partial(window_shuffle, counts=train.images.counts, window=3)
    sampler = EpochSampler(None, len(train), BATCH, 7, CPU, arrange)
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
