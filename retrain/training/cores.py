"""How many of this machine's cores decode."""

import os

import torch

MOST = 16
"""Beyond this many workers, handing batches over takes longer than decoding them."""


def decoders(asked: int | None, device: torch.device) -> int:
    """Return how many processes decode: as many as are asked for, or as the cores of this process allow.

    Beside a GPU all but one may decode. On the CPU, where training takes all cores that it is given, one does: it
    runs when training waits.
    """
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(MOST, max(1, cores - 1)) if device.type == "cuda" else 1
