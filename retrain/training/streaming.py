"""Batches that worker processes decode from prefetched shards."""

import math
import os
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from mmap import mmap
from multiprocessing.util import Finalize
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from retrain.data.augment import Rows
from retrain.data.samples import Samples, move_to
from retrain.data.stream.held_shards import HeldShards
from retrain.data.stream.pixels import ShardPixels
from retrain.data.stream.shard_cache import SHARDS_AHEAD
from retrain.errors import StoreError, TaskError, UserError
from retrain.training.loaders import Batch, EpochSampler, Position
from retrain.utils.processes import WorkerCrashed

BATCHES_AHEAD = 4
"""Number of batches that each worker decodes ahead."""


def check_room(pixels: ShardPixels, window: int, epoch: float, batch_size: int, workers: int) -> None:
    """Raise `TaskError` unless the cache has room for the shards of all batches in progress, and for prefetched shards.

    `epoch` is the number of samples in an epoch. Its order needs `window` shards at once and moves on by one shard for
    every `epoch / shards` samples (`window_shuffle`). This is a mean. The room of the prefetched shards allows for
    batches that need more, such as those of two epochs, and for evaluations of training samples.
    """
    in_progress = (workers * BATCHES_AHEAD + 1) * batch_size
    shards, largest = len(pixels.shards), max(ref.shard.size for ref in pixels.shards)
    held = min(shards, window + 1 + math.ceil(in_progress * shards / epoch))
    enough = min(shards, held + 1 + SHARDS_AHEAD) * largest
    if pixels.cache.limit < enough:
        raise TaskError(
            f"data.stream.cache: {pixels.cache.limit:,} bytes are too small for the {held} shards of up to "
            f"{largest:,} bytes that the batches in progress need, and for prefetched shards: set it to {enough:,} "
            f"bytes or more, or reduce data.stream.workers ({workers}), data.stream.shuffle_shards ({window}) or "
            f"training.batch_size ({batch_size})"
        )


@contextmanager
def explain_lost_worker() -> Iterator[None]:
    """Raise `WorkerCrashed` if torch reports within the context that a worker was killed.

    torch raises this error from a signal handler, so it may interrupt any statement.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise _lost_worker(error) from error


def _lost_worker(error: Exception) -> WorkerCrashed:
    return WorkerCrashed(
        f"a process that decodes images has ended: {str(error).strip().rstrip('.')}. If memory was short, reduce "
        "data.stream.workers, or train with more memory (resources.memory)"
    )


class _Sent(NamedTuple):
    """A batch that a worker is decoding: its samples, int64 [B], and the position after it."""

    samples: Tensor
    position: Position


class StreamingLoader:
    """A loader of samples in shards.

    Each worker decodes one batch at a time. Batches are returned in the order of the epochs, for any number of workers.
    The shards of a batch are locked in the cache before a worker decodes it, and released after it was returned.
    """

    def __init__(self, sampler: EpochSampler, train: Samples, pixels: ShardPixels, rows: Rows, workers: int) -> None:
        self.sampler, self.train, self.pixels, self.rows, self.workers = sampler, train, pixels, rows, workers
        self._begin()

    def _begin(self) -> None:
        """Begin at the sampler's position. Fetching and decoding start with the first call of `next`."""
        self.position = Position(self.sampler.number, self.sampler.offset)
        self._decoded: Iterator[Tensor | UserError] | None = None
        self._sent: deque[_Sent] = deque()
        self._is_closed = mmap(-1, 1)  # shared with the workers; its only byte is 1 after `close`, or when Python ends
        Finalize(self, self._is_closed.__setitem__, (0, 1), exitpriority=0)  # an error may have prevented `close`
        self._shards = HeldShards(self.pixels, self.workers * BATCHES_AHEAD)

    def seek(self, position: Position) -> None:
        """Discard the batches in progress and continue at a position."""
        self.close()
        self.sampler.seek(*position)
        self._begin()

    def next(self) -> Batch:
        """Return the next batch after it is decoded.

        Raises `WorkerCrashed` if a worker is killed while it sends a batch. Torch itself reports most killed workers.
        """
        if self._decoded is None:
            self._decoded = iter(self._workers())
        try:
            images = next(self._decoded)
        except (ConnectionError, EOFError) as error:
            raise _lost_worker(error) from error
        if isinstance(images, UserError):
            raise images
        samples, self.position = self._sent.popleft()
        samples, images = move_to(samples, self.train.device), move_to(images, self.train.device)
        return Batch(samples, images, self.train.labels[samples[self.rows.at]])

    def close(self) -> None:
        """Stop the workers and release the shards."""
        self._is_closed[0] = 1
        self._decoded = None
        self._shards.close()

    def _workers(self) -> "DataLoader[Tensor | UserError]":
        return DataLoader(
            _DecodingDataset(self.pixels),
            batch_sampler=self._batches(),
            num_workers=self.workers,
            prefetch_factor=BATCHES_AHEAD if self.workers else None,
            collate_fn=_identity,
            worker_init_fn=partial(_defer_signals, self._is_closed),
            multiprocessing_context="fork" if self.workers else None,  # workers must end with this process
            pin_memory=self.train.device.type == "cuda",
            generator=torch.Generator(),  # otherwise it would change the random state that dropout draws from
        )

    def _batches(self) -> Iterator[list[int]]:
        """Yield this process's rows of each batch once their shards are in the cache."""
        followed = -1
        while True:
            samples = self.sampler.next()
            of_this_epoch = samples[-self.sampler.offset :]  # the others are the last samples of the epoch before
            if self.sampler.number != followed:  # after a resumption, an epoch is followed from its middle
                self._shards.follow(self.sampler.order[self.sampler.offset - len(of_this_epoch) :])
                followed = self.sampler.number
            rows = samples[self.rows.at]
            self._shards.need(rows, of_this_epoch)
            self._sent.append(_Sent(samples, Position(self.sampler.number, self.sampler.offset)))
            yield rows.tolist()


class _DecodingDataset(Dataset["Tensor | UserError"]):
    """The dataset that a worker reads: it decodes rows from the cached shards."""

    def __init__(self, pixels: ShardPixels) -> None:
        self.pixels = pixels

    def __getitems__(self, rows: list[int]) -> Tensor | UserError:
        """Return the rows' images, or the error. A raised error would reach the user with a traceback."""
        try:
            return self.pixels.read_held(torch.tensor(rows))
        except UserError as error:
            return error
        except (
            OSError
        ) as error:  # another program emptied the cache. The run can resume, as after an error of the store
            return StoreError(
                f"a shard in the cache cannot be read: {error}. Let no other program remove files of $RETRAIN_CACHE "
                "during a run. Then run the command again: it resumes"
            )


def _identity(batch: Any) -> Any:
    return batch


def _defer_signals(is_closed: mmap, worker: int) -> None:
    """Ignore Ctrl-C in a worker, and SIGTERM until the loader is closed.

    The training process gets these signals, too. It saves its checkpoint first, and needs the workers until then. When
    Python ends, it sends SIGTERM to the remaining workers and waits for them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(os.EX_OK) if is_closed[0] else None)
