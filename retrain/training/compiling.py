"""The forward pass compiled, where the task asks for it."""

import os
import shutil
from typing import Literal, cast

import torch
from torch import nn

from retrain.errors import TaskError


def compiled(forward: nn.Module, how: Literal["none", "compile", "graphs"], device: torch.device) -> nn.Module:
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
