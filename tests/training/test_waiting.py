"""No training step waits for the device, because it reads no tensor's value on the host.

Without a GPU, the tests take real steps with fake tensors. These have shapes but no values, so code that reads a value
fails. Their device is the CPU, so copies to the host are detected by the name of the function.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.trainings import TASK, plan_of, run_of, samples, task_with
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from retrain.config.optimizers import Adam, Sgd
from retrain.config.recipe import (
    L2,
    Adversarial,
    ConfidencePenalty,
    Cosine,
    Ewc,
    L2Init,
    MultiStep,
    NoPenalty,
    Recipe,
    Warm,
)
from retrain.config.task import PowerAverage, Task
from retrain.data import augment
from retrain.data.samples import Samples
from retrain.recipe.learning_speed import Counters
from retrain.training.loop import train_step
from retrain.training.setup import Parent, Run, set_up

SIZES = (96, 64)
STEPS = 3
RECIPES = {
    "plain": Recipe(preset="paper", objective=NoPenalty(), schedule=MultiStep(scale=1)),
    "l2": Recipe(preset="paper", objective=L2(), schedule=Cosine(scale=1)),
    "l2_init": Recipe(preset="paper", objective=L2Init(), schedule=Cosine(scale=1)),
    "ewc": Recipe(preset="paper", objective=Ewc(), schedule=Cosine(scale=1)),
    "confidence": Recipe(preset="paper", objective=ConfidencePenalty(), schedule=Cosine(scale=1)),
    "adversarial": Recipe(preset="paper", objective=Adversarial(), schedule=Cosine(scale=1)),
    "head_first": Recipe(preset="paper", initialization=Warm(head_first=0.5), schedule=Cosine(scale=1)),
}
READS: dict[str, Callable[[Tensor], object]] = {
    "item": Tensor.item,
    "tolist": Tensor.tolist,
    "bool": lambda tensor: bool(tensor.sum() > 0),
    "nonzero": torch.nonzero,
    "mask": lambda tensor: tensor[tensor > 0],
    "cpu": Tensor.cpu,
    "numpy": Tensor.numpy,
}


class Refusing(TorchFunctionMode):
    """A mode in which functions that copy tensors to the host fail."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        assert func not in (Tensor.cpu, Tensor.numpy), "a copy to the host"
        return func(*args, **kwargs or {})


@contextmanager
def fail_on_host_reads() -> Iterator[None]:
    """Make every read of a tensor's value on the host fail within the context."""
    with ExitStack() as modes:
        modes.callback(augment._channels.cache_clear)  # a fake tensor in the cache would reach later tests
        modes.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        modes.enter_context(Refusing())
        yield


def continued(task: Task) -> Run:
    """Return a continuous run in its first epoch. Its old samples are thinned."""
    start = run_of(plan_of(task))
    known = replace(Counters.zeros(sum(SIZES)), seen=torch.ones(sum(SIZES), dtype=torch.int16))
    plan = plan_of(task, "continuous", sizes=SIZES, known=1, parent="parent")
    plan = plan.model_copy(update={"averaging": PowerAverage()})
    return run_of(plan, Parent(start.network.state_dict(), known))


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("optimizer", [Adam(), Sgd()], ids=["adam", "sgd"])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_step_reads_nothing_on_the_host(recipe: Recipe, optimizer: Adam | Sgd, bf16: bool) -> None:
    run = continued(task_with(recipe, optimizer, bf16))
    with fail_on_host_reads():
        for _ in range(STEPS):
            train_step(run)
    assert (run.progress.iteration, run.loader.position.epoch) == (STEPS, 0)


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_step_that_reads_on_the_host_is_detected(read: Callable[[Tensor], object]) -> None:
    run = continued(TASK)
    penalty = run.change_gradients
    run.change_gradients = lambda iteration: (penalty(iteration), read(run.counters.loss.sum(0, keepdim=True)))[0]
    with pytest.raises((RuntimeError, AssertionError)), fail_on_host_reads():
        train_step(run)


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="this machine has no GPU, and torch reports waiting only on GPUs"
)
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_gpu_epochs_have_no_host_synchronization(recipe: Recipe) -> None:
    def on_gpu(some: Samples) -> Samples:
        return Samples.of(some.images[torch.arange(len(some))].cuda(), some.labels.cuda(), some.sizes)

    plan = plan_of(task_with(recipe, Adam(), bf16=True), "continuous", sizes=SIZES, known=1, parent="parent")
    start = run_of(plan_of(plan.task)).network.state_dict()
    run = set_up(plan, on_gpu(samples(SIZES, 5)), on_gpu(samples([100], 5)), Parent(start, Counters.zeros(sum(SIZES))))
    train_step(run)
    try:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(10):
            train_step(run)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.loader.position.epoch > 1
