"""Choose how a training uses this machine: compiled code, bfloat16, memory and CPU cores."""

import ctypes
import logging
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

log = logging.getLogger("retrain")


def compile_forward(
    forward: nn.Module, how: Literal["none", "compile", "graphs", "step"], device: torch.device
) -> nn.Module:
    """Return the compiled forward pass. Its backward pass is compiled during the first step.

    `how` is the setting `training.compile`. With `step`, the forward pass is compiled without CUDA graphs, because
    `RecordedStep` records the whole iteration. With `step` and without a C++ compiler, the forward pass is returned
    unchanged. Raises `TaskError` if this machine cannot compile the forward pass.
    """
    if how == "none":
        return forward
    if how in ("graphs", "step") and device.type != "cuda":
        raise TaskError(f"training.compile: {how} needs a CUDA device, and this is {device.type}: use compile or none")
    if not shutil.which(os.environ.get("CXX", "g++")):
        if how == "step":
            log.info("training.compile: step is faster with a C++ compiler, and this machine has none: install g++")
            return forward
        raise TaskError(
            "training.compile: torch needs a C++ compiler, $CXX or g++, and this machine has none: install g++, or use "
            "none"
        )
    torch.compiler.reset()  # forget earlier trainings of this process: torch limits how often it compiles one function
    mode = "reduce-overhead" if how == "graphs" else None  # torch's name for CUDA graphs
    return cast(nn.Module, torch.compile(forward, mode=mode))


BF16_SLOW = "training.bf16: this CPU has no AVX-512, so float32 is several times as fast: set training.bf16 to false"


def is_bf16_slow(bf16: bool, device: torch.device) -> bool:
    """Return whether a training in bfloat16 would be slower on this device than in float32."""
    return bf16 and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of mallopt's parameters in glibc's malloc.h."""

MALLOC_VARIABLES = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"}
"""Environment variables that set how much freed memory glibc keeps."""

LARGEST_KEPT = 1 << 30
"""Size in bytes of the largest block that is kept. Larger blocks are data sets and not activations, so they are
returned to the kernel."""


def tune_malloc() -> None:
    """Make glibc keep freed memory, because the kernel fills every new page with zeros. Without glibc, do nothing.

    glibc keeps at most the process's peak memory. The results of computations do not change. If the environment sets
    one of `MALLOC_VARIABLES`, this function does nothing.
    """
    if platform.libc_ver()[0] == "glibc" and not MALLOC_VARIABLES & os.environ.keys():
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        libc.mallopt(M_TRIM_THRESHOLD, LARGEST_KEPT)


MAX_WORKERS = 16
"""Largest number of decoding processes. With more, sending the batches takes longer than decoding them."""

DECODING, DECODING_BYTE = 20e-6, 35e-9
"""Seconds that one core takes to decode an image, and additional seconds for each byte of its file. Both were measured
with Pillow for PNG and JPEG. They are accurate within a factor of two."""

OPERATIONS = 60e9
"""Floating-point operations that one core does in a second of training."""


class CoreShares(NamedTuple):
    """The division of the processor cores in a streamed training."""

    decoding: int
    """Number of decoding processes. With 0, the training process decodes."""
    training: int
    """Number of computing threads on the CPU."""


def cores_beside_gpu(asked: int | None) -> CoreShares:
    """Return the division with a GPU: all cores but one decode, or the requested number of processes."""
    decoding = min(MAX_WORKERS, max(1, available_cores() - 1)) if asked is None else asked
    return CoreShares(decoding, torch.get_num_threads())


def share_cores(asked: int | None, image_bytes: float, operations: float) -> CoreShares:
    """Divide the cores between decoding and training on the CPU.

    `image_bytes` is the mean size of an image file, and `operations` the cost of training on one image. `asked` is the
    requested number of decoding processes, or None to choose it. OMP_NUM_THREADS sets the number of computing threads.
    The result depends only on data, network and machine, and not on measured speeds. A repeated run therefore computes
    with the same number of threads. Its sums of floats are then the same.
    """
    cores, threads = available_cores(), torch.get_num_threads()
    given = _decoding_cores(cores, DECODING + DECODING_BYTE * image_bytes, operations / OPERATIONS)
    more = 1 if given else 0  # one more process, to use the training's cores while the training waits
    workers = min(MAX_WORKERS, given + more) if asked is None else asked
    left = threads if "OMP_NUM_THREADS" in os.environ else max(1, min(threads, cores - min(given, workers)))
    return CoreShares(workers, left)


def _decoding_cores(cores: int, decoding: float, computing: float) -> int:
    """Return the number of cores for decoding, given one core's seconds to decode and to train on an image.

    Training does not use these cores. OpenMP threads wait for each other, so one thread on a shared core delays all
    threads. The result is 0 if decoding between steps takes less time than the training would lose with one core less.
    """
    if decoding * cores < computing / cores:
        return 0
    return max(1, round(cores * decoding / (decoding + computing)))


@contextmanager
def use_threads(threads: int) -> Iterator[None]:
    """Compute with this many threads inside the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
