"""How this process's cores are shared out between decoding and training."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from retrain.processors import own_cores

MOST = 16
"""Beyond this many workers, handing batches over takes longer than decoding them."""

DECODING, DECODING_BYTE = 20e-6, 35e-9
"""Seconds that one core takes for an image, and for each byte of its file: Pillow's, for PNG and JPEG, within a factor
of two."""

OPERATIONS = 60e9
"""Floating-point operations that one core does in a second of training."""


class Cores(NamedTuple):
    """What a streamed training uses."""

    decoding: int
    """Processes that decode; 0: the training process itself."""
    training: int
    """Threads that compute, on the CPU."""


def beside_gpu(asked: int | None) -> Cores:
    """Return what decodes and computes beside a GPU: all cores but one decode, or as many as are asked for."""
    decoding = min(MOST, max(1, own_cores() - 1)) if asked is None else asked
    return Cores(decoding, torch.get_num_threads())


def share_out(asked: int | None, image_bytes: float, operations: float) -> Cores:
    """Share the cores out, where images are files of so many bytes, and training on one takes so many operations.

    `asked` is how many processes are to decode, if that is said, and OMP_NUM_THREADS says how many threads compute.
    All this depends on data, network and machine alone, and not on how fast it is just now: sums of floats depend on
    threads.
    """
    cores, threads = own_cores(), torch.get_num_threads()
    given = _given(cores, DECODING + DECODING_BYTE * image_bytes, operations / OPERATIONS)
    more = 1 if given else 0  # for what training leaves of its own cores while it waits
    workers = min(MOST, given + more) if asked is None else asked
    left = threads if "OMP_NUM_THREADS" in os.environ else max(1, min(threads, cores - min(given, workers)))
    return Cores(workers, left)


def _given(cores: int, decoding: float, computing: float) -> int:
    """How many cores are decoding's, by the seconds that one core takes for an image.

    It gets its share of them, which training then leaves alone: OpenMP's threads wait for each other, so one whose core
    is taken holds up all. It gets none where decoding between steps costs less than a core does.
    """
    if decoding * cores < computing / cores:
        return 0
    return max(1, round(cores * decoding / (decoding + computing)))


@contextmanager
def computing(threads: int) -> Iterator[None]:
    """Compute in so many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
