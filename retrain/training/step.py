"""The device work of one iteration. It can be recorded as one CUDA graph that is replayed.

A replay launches the whole iteration in one call: augmentation, forward and backward pass, penalty, optimizer,
averaging and counters. Values that change between iterations are copied into tensors with fixed addresses. These are
the batch, the learning rate and the share of the newest weights in the average. This follows torch's guide on CUDA
graphs ("whole-network capture").
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from retrain.errors import TaskError
from retrain.training.loaders import Batch
from retrain.training.optimizers import body_frozen_until
from retrain.training.setup import Compute, Run

WARM_UP = 3
"""Number of iterations before the recording. In these iterations, libraries choose their algorithms and allocate their
workspaces."""


def compute_step(
    run: Run, pixels: Tensor, batch: Batch, iteration: int, rate: float | Tensor, share: float | Tensor
) -> None:
    """Do the device work of an iteration on a batch. `pixels` are its transformed images.

    `rate` is the learning rate, and `share` the share of the newest weights in their average.
    """
    bf16, labels = run.plan.task.training.bf16, batch.labels
    images, targets = run.mix(run.augment(pixels, run.augmentation, run.rows), labels, iteration)
    run.statistics.before_forward(iteration)
    run.optimizer.zero_grad()  # before the forward pass: its graph can then reuse the gradients' memory
    with torch.autocast(images.device.type, torch.bfloat16) if bf16 else nullcontext():
        logits = run.forward(images)
    logits = logits.float()
    loss, losses = run.criterion(logits, labels, targets)
    torch.autograd.backward(run.batch_loss(images, targets, logits, loss) * run.weight)
    run.change_gradients(iteration)
    run.optimizer.step(rate)
    run.statistics.after_backward()
    run.average.add(share)
    correct, losses = run.ranks.gather_batch(run.rows, logits.argmax(1) == labels, losses.detach())
    if run.plan.task.training.learning_speed == "free":
        run.counters.count(batch.samples, correct, losses)
    run.loss_sum += losses.mean()
    run.correct_sum += correct.double().mean()


class Recorder(Protocol):
    """A recorder of work on a device."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return a function that repeats the work on the same tensors. The work is not done while it is recorded."""


class CudaGraphRecorder:
    """A recorder of work as a CUDA graph. It registers the random generators of the work, except the default one."""

    def __init__(self, *generators: torch.Generator) -> None:
        self._generators = generators

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture the work on a separate stream."""
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            work()
        return graph.replay


class _Inputs(NamedTuple):
    """Tensors with fixed addresses. The recorded work reads from them the values that change between iterations."""

    pixels: Tensor
    batch: Batch
    rate: Tensor
    """Learning rate, float32 scalar."""
    share: Tensor
    """Share of the newest weights in their average, float32 scalar."""

    def copy(self, pixels: Tensor, batch: Batch, rate: float, share: float) -> None:
        """Copy the values of an iteration, without waiting for the device."""
        self.pixels.copy_(pixels, non_blocking=True)
        for own, new in zip(self.batch, batch, strict=True):
            own.copy_(new, non_blocking=True)
        self.rate.fill_(rate)
        self.share.fill_(share)


class RecordedStep:
    """A `compute_step` that is recorded when the work no longer depends on the iteration, and replayed afterwards."""

    def __init__(self, run: Run, recorder: Recorder) -> None:
        """Prepare the recording. Raises `TaskError` if this run's steps cannot be recorded."""
        if run.ranks.size > 1:
            raise TaskError("training.compile: step is for one process: use graphs, compile or none")
        if run.plan.task.data.augmentation.mixup or run.plan.task.data.augmentation.cutmix:
            raise TaskError("training.compile: step cannot mix images (mixup, cutmix): use graphs, compile or none")
        self._recorder = recorder
        self._done = 0
        self._inputs: _Inputs | None = None
        self._replay: Callable[[], None] = lambda: None

    def __call__(self, run: Run, pixels: Tensor, batch: Batch, iteration: int, rate: float, share: float) -> None:
        """Do the device work of an iteration, as `compute_step` does."""
        if self._inputs is None and not self._is_steady(run, iteration):
            compute_step(run, pixels, batch, iteration, rate, share)
            self._done += 1
            return
        if self._inputs is None:
            self._inputs = self._record(run, pixels, batch, iteration)
        self._inputs.copy(pixels, batch, rate, share)
        self._replay()

    def _is_steady(self, run: Run, iteration: int) -> bool:
        """Return whether all later iterations do the same work, only on other values."""
        return self._done >= WARM_UP and iteration >= body_frozen_until(run.plan) and run.statistics.is_done(iteration)

    def _record(self, run: Run, pixels: Tensor, batch: Batch, iteration: int) -> _Inputs:
        rate, share = torch.zeros(2, device=pixels.device)
        inputs = _Inputs(pixels.clone(), Batch(*(part.clone() for part in batch)), rate, share)

        def work() -> None:
            compute_step(run, inputs.pixels, inputs.batch, iteration, inputs.rate, inputs.share)

        self._replay = self._recorder.record(work)
        return inputs


def choose_step(run: Run) -> Compute:
    """Return the function that does the device work of this run's iterations, by `training.compile`."""
    if run.plan.task.training.compile != "step":
        return compute_step
    return RecordedStep(run, CudaGraphRecorder(run.augmentation))
