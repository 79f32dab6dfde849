"""Write the network as a program that needs no code of this project: by ONNX or by torch.export."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from retrain.errors import ModelError
from retrain.utils.extras import import_extra, require_extra

Format = Literal["onnx", "torch"]

FILES: dict[Format, str] = {"onnx": "model.onnx", "torch": "model.pt2"}
"""Name of a program's file in the exported folder."""

INPUT, OUTPUT = "images", "logits"
"""Names of the ONNX program's input, float32 [N, 3, H, W], and output, float32 [N, K]."""

OPSET = 20
"""ONNX operator set. onnxruntime can read it since version 1.17."""

Run = Callable[[Tensor], Tensor]
"""Function from normalized images [N, 3, H, W] to logits [N, K]."""


class Program(NamedTuple):
    """A written program, loaded again from its file."""

    format: Format
    run: Run


def check_installed(formats: tuple[Format, ...]) -> None:
    """Raise `UserError` if a format cannot be written here. Its message says what to install."""
    for module in ("onnx", "onnxscript", "onnxruntime") if "onnx" in formats else ():
        require_extra(module, "Exporting to ONNX")


def write_program(kind: Format, network: nn.Module, shape: tuple[int, int, int], folder: Path) -> Program:
    """Write a network in evaluation mode as a program, and load it.

    The program accepts any number of images of this shape. Raises `ModelError` if torch cannot trace the network,
    and `OSError` if the file cannot be written.
    """
    path = folder / FILES[kind]
    with _quiet():
        traced = _trace(network, shape)
        if kind == "torch":
            written = BytesIO()  # torch would crash the process on a full disk
            torch.export.save(traced, written)
            path.write_bytes(written.getvalue())
            return Program(kind, torch.export.load(path).module())
        torch.onnx.export(
            traced,
            f=path,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    return Program(kind, _onnx_runner(path))


def _trace(network: nn.Module, shape: tuple[int, int, int]) -> torch.export.ExportedProgram:
    example = torch.zeros(2, *shape)
    try:
        return torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:  # torch's tracer and a user's network may raise anything
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"torch.export cannot trace the network: {first}: change the network's code, or export without --onnx and "
            "--torch-export"
        ) from error


def _onnx_runner(path: Path) -> Run:
    runtime = import_extra("onnxruntime", "Checking ONNX")
    session: Any = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Stop torch's tracers from logging their progress and from warning about their internals."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
