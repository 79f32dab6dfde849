"""How a training uses this machine: compiled code, bfloat16, memory and processor cores."""

import ctypes
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, cast

import torch
from torch import nn

from retrain.errors import TaskError
from retrain.utils.processes import available_cores


def compile_forward(forward: nn.Module, how: Literal["none", "compile", "graphs"], device: torch.device) -> nn.Module:
    """Return what to call for the forward pass; its backward pass is compiled with it. The first step waits for it.

    Raises `TaskError` where this machine cannot do it.
    """
    if how == "none":
        return forward
    if how == "graphs" and device.type != "cuda":
        raise TaskError(f"training.compile: graphs are CUDA's, and this runs on {device.type}; use compile or none")
    if not shutil.which(os.environ.get("CXX", "g++")):
        raise TaskError(
            "training.compile: torch compiles with g++, or what $CXX names, and this machine has neither; install g++, "
            "or use none"
        )
    torch.compiler.reset()  # what an earlier training of this process left: torch stops compiling one code too often
    mode = "reduce-overhead" if how == "graphs" else None  # torch's word for CUDA graphs
    return cast(nn.Module, torch.compile(forward, mode=mode))


BF16_SLOW = "training.bf16: this CPU has no AVX-512, and float32 is several times as fast on it"


def is_bf16_slow(bf16: bool, device: torch.device) -> bool:
    """Say whether a training in bfloat16 would be slower on a device than one in float32."""
    return bf16 and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""

MALLOC_VARIABLES = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"}
"""Environment variables that set what glibc keeps."""

LARGEST_KEPT = 1 << 30
"""Bytes; what is larger still goes back to the kernel: data sets, and not activations."""


def tune_malloc() -> None:
    """Have glibc keep what is freed, where this is glibc: what comes anew from the kernel is zeroed first.

    It keeps as much as the process had at most. Arithmetic is not touched, nor are GPUs. An environment that says what
    to keep (`MALLOC_VARIABLES`) is left to itself.
    """
    if platform.libc_ver()[0] == "glibc" and not MALLOC_VARIABLES & os.environ.keys():
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        libc.mallopt(M_TRIM_THRESHOLD, LARGEST_KEPT)


MAX_WORKERS = 16
"""Beyond this many workers, handing batches over takes longer than decoding them."""

DECODING, DECODING_BYTE = 20e-6, 35e-9
"""Seconds that one core takes for an image, and for each byte of its file: Pillow's, for PNG and JPEG, within a factor
of two."""

OPERATIONS = 60e9
"""Floating-point operations that one core does in a second of training."""


class CoreShares(NamedTuple):
    """What a streamed training uses."""

    decoding: int
    """Processes that decode; 0: the training process itself."""
    training: int
    """Threads that compute, on the CPU."""


def cores_beside_gpu(asked: int | None) -> CoreShares:
    """Return what decodes and computes beside a GPU: all cores but one decode, or as many as are asked for."""
    decoding = min(MAX_WORKERS, max(1, available_cores() - 1)) if asked is None else asked
    return CoreShares(decoding, torch.get_num_threads())


def share_cores(asked: int | None, image_bytes: float, operations: float) -> CoreShares:
    """Share the cores out, where images are files of so many bytes, and training on one takes so many operations.

    `asked` is how many processes are to decode, if that is said, and OMP_NUM_THREADS says how many threads compute.
    All this depends on data, network and machine alone, and not on how fast it is just now: sums of floats depend on
    threads.
    """
    cores, threads = available_cores(), torch.get_num_threads()
    given = _decoding_cores(cores, DECODING + DECODING_BYTE * image_bytes, operations / OPERATIONS)
    more = 1 if given else 0  # for what training leaves of its own cores while it waits
    workers = min(MAX_WORKERS, given + more) if asked is None else asked
    left = threads if "OMP_NUM_THREADS" in os.environ else max(1, min(threads, cores - min(given, workers)))
    return CoreShares(workers, left)


def _decoding_cores(cores: int, decoding: float, computing: float) -> int:
    """How many cores are decoding's, by the seconds that one core takes for an image.

    It gets its share of them, which training then leaves alone: OpenMP's threads wait for each other, so one whose core
    is taken holds up all. It gets none where decoding between steps costs less than a core does.
    """
    if decoding * cores < computing / cores:
        return 0
    return max(1, round(cores * decoding / (decoding + computing)))


@contextmanager
def use_threads(threads: int) -> Iterator[None]:
    """Compute in so many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
