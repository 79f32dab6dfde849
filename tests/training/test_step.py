"""Iterations that are recorded once and replayed have the same results as plain iterations.

CUDA graphs need a GPU. Without one, a replay calls the recorded function again, on the same tensors. The weights would
differ if the function did work that a graph cannot repeat, such as reading the learning rate of an iteration.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from support.trainings import TASK, plan_of, run_of, samples, task_with
from torch import Tensor

from retrain.config.augmentation import Augmentation
from retrain.config.optimizers import Adam, AdamW, Sgd
from retrain.config.recipe import Adversarial, Cosine, Ewc, L2Init, NoPenalty, Recipe, Warm
from retrain.config.task import NoAverage, PowerAverage, Task
from retrain.data.samples import Samples
from retrain.errors import TaskError
from retrain.recipe.learning_speed import Counters
from retrain.training.distributed import ProcessGroup
from retrain.training.loop import train_step
from retrain.training.optimizers import body_frozen_until
from retrain.training.setup import Parent, Run, set_up
from retrain.training.step import WARM_UP, CudaGraphRecorder, RecordedStep

SIZES = (96, 64)
STEPS = 12
RECIPES = {
    "plain": Recipe(preset="paper", initialization=Warm(), objective=NoPenalty(), schedule=Cosine(scale=1)),
    "l2_init": Recipe(preset="paper", initialization=Warm(), objective=L2Init(), schedule=Cosine(scale=1)),
    "ewc": Recipe(preset="paper", initialization=Warm(), objective=Ewc(), schedule=Cosine(scale=1)),
    "adversarial": Recipe(preset="paper", initialization=Warm(), objective=Adversarial(), schedule=Cosine(scale=1)),
    "head_first": Recipe(preset="paper", initialization=Warm(head_first=0.2), schedule=Cosine(scale=1)),
}
CASES = [
    *((name, Adam(), PowerAverage()) for name in RECIPES),
    ("l2_init", AdamW(), PowerAverage()),
    ("l2_init", Sgd(learning_rate=0.01), NoAverage()),
]


class CallAgain:
    """A recorder whose replay calls the recorded function. It lists the iterations in which it records and replays."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.recorded: list[int] = []
        self.replayed: list[int] = []

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recorded.append(self._run.progress.iteration)

        def replay() -> None:
            self.replayed.append(self._run.progress.iteration)
            work()

        return replay


def continued(task: Task, averaging: PowerAverage | NoAverage, device: str = "cpu") -> Run:
    """Return a continuous run. Its BatchNorm statistics come from a trained parent."""
    start = run_of(plan_of(task))
    for _ in range(2):
        train_step(start)
    known = replace(Counters.zeros(sum(SIZES)), seen=torch.ones(sum(SIZES), dtype=torch.int16))
    plan = plan_of(task, "continuous", sizes=SIZES, known=1, parent="parent")
    plan = plan.model_copy(update={"averaging": averaging})
    train_samples, val_samples = (on_device(samples(sizes, 5), device) for sizes in (SIZES, (100,)))
    return set_up(plan, train_samples, val_samples, Parent(start.network.state_dict(), known))


def on_device(some: Samples, device: str) -> Samples:
    return Samples.of(some.images[torch.arange(len(some))].to(device), some.labels.to(device), some.sizes)


def train(run: Run, steps: int = STEPS) -> tuple[list[float], dict[str, Tensor]]:
    """Train, and return the sums of losses and correct predictions after each step, and all tensors at the end."""
    sums = []
    for _ in range(steps):
        train_step(run)
        sums += [run.loss_sum.item(), run.correct_sum.item()]
    counters = {"seen": run.counters.seen, "correct": run.counters.correct, "loss": run.counters.loss}
    average = {f"average {name}": tensor for name, tensor in run.average.network().state_dict().items()}
    return sums, {**run.network.state_dict(), **average, **counters}


@pytest.mark.parametrize(("recipe", "optimizer", "averaging"), CASES, ids=lambda one: getattr(one, "name", one))
def test_recorded_run_trains_like_a_plain_run(
    recipe: str, optimizer: Adam | AdamW | Sgd, averaging: PowerAverage | NoAverage
) -> None:
    task = task_with(RECIPES[recipe], optimizer)
    losses, expected = train(continued(task, averaging))
    run = continued(task, averaging)
    recorder = CallAgain(run)
    run.compute = RecordedStep(run, recorder)
    found_losses, found = train(run)
    assert found_losses == pytest.approx(losses, rel=1e-4)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    begin = max(WARM_UP, round(body_frozen_until(run.plan)))
    assert recorder.recorded == [begin]
    assert recorder.replayed == list(range(begin, STEPS))


def test_step_is_recorded_after_the_batchnorm_correction() -> None:
    run = run_of(plan_of(TASK))
    recorder = CallAgain(run)
    run.compute = RecordedStep(run, recorder)
    train(run, 10)
    assert recorder.recorded == []
    run.progress.iteration = 200
    train_step(run)
    assert recorder.recorded == [200]


@pytest.mark.parametrize(
    ("mixing", "message"), [({"mixup": 0.2}, "mixup, cutmix"), ({"cutmix": 1.0}, "mixup, cutmix")], ids=str
)
def test_recording_refuses_to_mix_images(mixing: dict[str, float], message: str) -> None:
    data = TASK.data.model_copy(update={"augmentation": Augmentation.model_validate(mixing)})
    run = run_of(plan_of(TASK.model_copy(update={"data": data})))
    with pytest.raises(TaskError, match=rf"training\.compile: step cannot mix images \({message}\)"):
        RecordedStep(run, CallAgain(run))


def test_recording_refuses_several_processes() -> None:
    class Two(ProcessGroup):
        size = 2

    run = run_of(plan_of(TASK))
    run.ranks = Two()
    with pytest.raises(TaskError, match=r"training\.compile: step is for one process"):
        RecordedStep(run, CallAgain(run))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU, and this machine has none")
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_cuda_graph_trains_like_single_kernels(recipe: Recipe, bf16: bool) -> None:
    task = task_with(recipe, Adam(), bf16)
    losses, expected = train(continued(task, PowerAverage(), "cuda"))
    run = continued(task, PowerAverage(), "cuda")
    run.compute = RecordedStep(run, CudaGraphRecorder(run.augmentation))
    found_losses, found = train(run)
    tolerance = 5e-2 if bf16 else 1e-3
    assert found_losses == pytest.approx(losses, rel=tolerance)
    assert torch.equal(found["seen"], expected["seen"])


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="this machine has no GPU, and torch reports waiting only on GPUs"
)
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
def test_replayed_cuda_graph_never_waits_for_the_gpu() -> None:
    run = continued(task_with(RECIPES["l2_init"], Adam(), bf16=True), PowerAverage(), "cuda")
    run.compute = RecordedStep(run, CudaGraphRecorder(run.augmentation))
    train(run)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(STEPS):
            train_step(run)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.progress.iteration == 2 * STEPS
