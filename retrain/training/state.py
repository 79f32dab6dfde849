"""Save a run's complete state as one safetensors file, and load it.

On the CPU, a resumed run ends with exactly the same bits as an uninterrupted run. All processes of a run share one
state. Another number of processes can load it, too, but their dropout masks and the rounding of their sums then differ.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from retrain.errors import RunError
from retrain.store.runs import prepare_tensors
from retrain.training.loaders import Position
from retrain.training.optimizers import moments
from retrain.training.progress import Progress
from retrain.training.setup import Run


@dataclass
class _Metadata:
    """The part of a run's state that is not a tensor."""

    run_id: str
    passes: Position
    progress: Progress


_METADATA = TypeAdapter(_Metadata)


def save_state(run: Run) -> bytes:
    """Return the state: weights, their average, optimizer, counters, random generators, position in the data, curve."""
    position = _Metadata(run.plan.run_id, run.loader.position, run.progress)
    tensors = prepare_tensors(_tensors(run))
    tensors["random"] = run.ranks.gather_tensors(torch.get_rng_state())
    tensors["augmentation"] = run.augmentation.get_state()
    return save(tensors, {"position": _METADATA.dump_json(position).decode()})


def load_state(run: Run, state: bytes) -> None:
    """Load the result of `save_state` into a new `Run`.

    Raises `RunError` and changes nothing if the state belongs to another run, network or optimizer.
    """
    tensors, position = _read(state)
    if position.run_id != run.plan.run_id:
        raise RunError(f"the saved state of run {position.run_id} is not a state of run {run.plan.run_id}")
    for name, tensor in _tensors(run):
        if name not in tensors or (tensors[name].shape, tensors[name].dtype) != (tensor.shape, tensor.dtype):
            raise RunError(
                f"the saved state of run {run.plan.run_id} does not match its network or optimizer at {name}: remove "
                "the run's folder state/ from the store to start the run again"
            )
    with torch.no_grad():
        for name, tensor in _tensors(run):
            tensor.copy_(tensors[name])
    randoms = tensors["random"]
    torch.set_rng_state(randoms[run.ranks.rank % len(randoms)].clone())  # torch reads beyond the end of a view
    run.augmentation.set_state(tensors["augmentation"])
    run.loader.seek(position.passes)
    run.progress = position.progress


def _tensors(run: Run) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor that iterations change, with its name."""
    for name, tensor in run.network.state_dict().items():
        yield f"network.{name}", tensor
    for name, tensor in run.average.tensors().items():
        yield f"average.{name}", tensor
    for name, tensor in moments(run.optimizer).items():
        yield f"optimizer.{name}", tensor
    yield "counters.seen", run.counters.seen
    yield "counters.correct", run.counters.correct
    yield "counters.loss", run.counters.loss
    yield "loss_sum", run.loss_sum
    yield "correct_sum", run.correct_sum


def _read(state: bytes) -> tuple[dict[str, Tensor], _Metadata]:
    """Read the tensors, and the header's metadata (safetensors' `load` leaves the metadata out)."""
    try:
        length = int.from_bytes(state[:8], "little")
        metadata = json.loads(state[8 : 8 + length])["__metadata__"]
        return load(state), _METADATA.validate_json(metadata["position"])
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise RunError(
            f"the saved state of a run cannot be read: {error}; remove the run's folder state/ from the store to start "
            "it again"
        ) from error
