"""A run's whole state as one safetensors file, and back: a restored run goes on bit for bit (on the CPU)."""

import json
from collections.abc import Iterator

import torch
from pydantic import TypeAdapter
from safetensors.torch import load, save
from torch import Tensor

from retrain.errors import RunError
from retrain.training.progress import Progress
from retrain.training.setup import Run

_PROGRESS = TypeAdapter(Progress)


def freeze(run: Run) -> bytes:
    """Return the state: weights, optimiser, counters, positions of all random streams, curve."""
    meta = {
        "progress": _PROGRESS.dump_json(run.progress).decode(),
        "passes": json.dumps([run.passes.number, run.passes.offset]),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(run)}
    tensors["random"] = torch.get_rng_state()
    tensors["augmentation"] = run.augmentation.get_state()
    return save(tensors, meta)


def thaw(run: Run, state: bytes) -> None:
    """Put a newly set-up run where `freeze` found it. Raises `RunError` if the state is of another run."""
    tensors, meta = load(state), _metadata(state)
    _start_optimizer(run)
    try:
        with torch.no_grad():
            for name, tensor in _tensors(run):
                tensor.copy_(tensors[name])
    except (KeyError, RuntimeError) as error:
        raise RunError(f"saved state does not belong to run {run.plan.run_id}: {error}") from error
    torch.set_rng_state(tensors["random"])
    run.augmentation.set_state(tensors["augmentation"])
    run.passes.seek(*json.loads(meta["passes"]))
    run.progress = _PROGRESS.validate_json(meta["progress"])


def _tensors(run: Run) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that iterations change."""
    for name, tensor in run.network.state_dict().items():
        yield f"network.{name}", tensor
    parameters = [parameter for group in run.optimizer.param_groups for parameter in group["params"]]
    for position, parameter in enumerate(parameters):
        for name, tensor in run.optimizer.state[parameter].items():
            if isinstance(tensor, Tensor):
                yield f"optimizer.{position}.{name}", tensor
    yield "counters.seen", run.counters.seen
    yield "counters.correct", run.counters.correct
    yield "counters.loss", run.counters.loss
    yield "loss_sum", run.loss_sum


def _start_optimizer(run: Run) -> None:
    """Let the optimiser allocate its moments, with gradients and a rate of zero; they are overwritten next."""
    for group in run.optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    run.optimizer.step()
    run.optimizer.zero_grad()


def _metadata(state: bytes) -> dict[str, str]:
    length = int.from_bytes(state[:8], "little")
    meta: dict[str, str] = json.loads(state[8 : 8 + length])["__metadata__"]
    return meta
