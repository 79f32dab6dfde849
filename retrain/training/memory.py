"""Memory that training on the CPU frees in each step and needs again in the next."""

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""

CHOSEN = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"}
"""Environment variables by which somebody has told glibc what to keep."""

LARGEST = 1 << 30
"""Bytes; what is larger still goes back to the kernel: data sets, and not activations."""


def keep_freed() -> None:
    """Have glibc keep what is freed, where this is glibc: what comes anew from the kernel is zeroed first.

    It keeps as much as the process had at most. Arithmetic is not touched, nor are GPUs. An environment that says what
    to keep (`CHOSEN`) is left to itself.
    """
    if platform.libc_ver()[0] == "glibc" and not CHOSEN & os.environ.keys():
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
        libc.mallopt(M_TRIM_THRESHOLD, LARGEST)
