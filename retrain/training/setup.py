"""Set up a run: build everything that the loop needs from a plan, its data and a parent."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from retrain.config.recipe import ShrinkPerturb
from retrain.data.augment import Augment, Normalize, Rows
from retrain.data.samples import Samples
from retrain.data.stream.order import window_shuffle
from retrain.data.stream.pixels import ShardPixels
from retrain.errors import TaskError
from retrain.models import factory, flops
from retrain.recipe.averaging import AveragedNetwork
from retrain.recipe.batchnorm import StatisticsCorrection
from retrain.recipe.initialization import initialize
from retrain.recipe.learning_speed import Counters
from retrain.recipe.objective import BatchLoss, batch_loss
from retrain.recipe.sampling import balanced_appearances, keep_probability
from retrain.records import Plan
from retrain.training.distributed import SINGLE_PROCESS, ProcessGroup
from retrain.training.groups import Groups
from retrain.training.hardware import CoreShares, cores_beside_gpu, share_cores
from retrain.training.head import GrownHead, grow_head
from retrain.training.loaders import Batch, EpochSampler, InMemoryLoader, Loader
from retrain.training.loss import Criterion, make_criterion
from retrain.training.optimizers import Optimizer, build_optimizer, gradient_changes, load_moments, trained_parameters
from retrain.training.progress import Progress
from retrain.training.seeds import derive_seed, fresh_network, make_generator
from retrain.training.streaming import StreamingLoader, check_room
from retrain.training.transforms import Mix, Transform, make_mix, make_transform


@dataclass
class Parent:
    """The parent of a run: its weights, and its counters over the training samples of this dataset."""

    weights: Mapping[str, Tensor]
    counters: Counters | None
    """Learning-speed counters of the parent. None if the sampling does not need them."""
    moments: Mapping[str, Tensor] | None = None
    """The optimizer's state, if the task stores it."""


Compute = Callable[["Run", Tensor, Batch, int, float, float], None]
"""Function that does the device work of an iteration. Its arguments are the run, the transformed images, their batch,
the iteration, the learning rate, and the share of the newest weights in their average."""


@dataclass
class Run:
    """Everything that one training needs, on its device, ready for the first step."""

    plan: Plan
    train: Samples
    val: Samples
    network: nn.Module
    forward: nn.Module
    """The forward pass in training. It is the network itself, or a wrapper that averages gradients over the
    processes."""
    optimizer: Optimizer
    peak_rate: float
    """Highest learning rate of the schedule."""
    criterion: Criterion
    """Function that returns the losses of a batch."""
    batch_loss: BatchLoss
    """Function that returns the scalar that an iteration minimizes."""
    change_gradients: Callable[[int], None]
    """Function that applies the recipe's changes to gradients between `backward()` and `step()`, in iteration i."""
    loader: Loader
    threads: int
    """Number of threads that compute on the CPU."""
    transform: Transform
    """The first transform of raw training images."""
    augment: Augment
    normalize: Normalize
    mix: Mix
    """Function that mixes the images of a batch, and their targets."""
    augmentation: torch.Generator
    """The random generator of crops and flips."""
    counters: Counters
    """This run's own learning-speed counters."""
    average: AveragedNetwork
    """The averaged network. It is evaluated and saved as the run's model."""
    progress: Progress
    ranks: ProcessGroup
    """The group of processes that train together."""
    rows: Rows
    """This process's rows of every batch."""
    weight: Tensor
    """Weight of the mean loss of `rows`, float32 scalar: the number of these rows divided by the mean number of rows of
    a process."""
    compute: Compute | None = None
    """Function that does the device work of an iteration instead of `compute_step`."""
    parent_counters: Counters | None = None
    """The parent's learning-speed counters, if the sampling needs them."""
    val_order: Tensor = field(init=False)
    """A random order of val, the same for every run on this dataset and seed."""
    loss_sum: Tensor = field(init=False)
    """Sum of the iterations' mean losses since the last evaluation, float64 scalar on the device."""
    correct_sum: Tensor = field(init=False)
    """Sum of the iterations' training accuracies since the last evaluation, float64 scalar on the device."""
    statistics: StatisticsCorrection = field(init=False)
    """Correction of BatchNorm's running statistics, if they are newly initialized."""
    groups: Groups = field(init=False)
    """Groups of val samples whose accuracies are reported separately."""

    def __post_init__(self) -> None:
        """Set all counts to zero, and draw the order in which val is read."""
        device, images = self.train.device, len(self.val.labels)
        self.val_order = torch.randperm(images, generator=make_generator(self.plan.seed, "val")).to(device)
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.correct_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.statistics = StatisticsCorrection(self.network)
        self.groups = Groups.of(self.plan, self.val)


def set_up(
    plan: Plan,
    train: Samples,
    val: Samples,
    parent: Parent | None,
    ranks: ProcessGroup = SINGLE_PROCESS,
    pretrained: Mapping[str, Tensor] | None = None,
) -> Run:
    """Build the run of a plan, before its first iteration. `pretrained` are pretrained weights of the network's body.

    Seeds torch's global random state for layers such as dropout. Raises `ModelError` if the parent's weights do not fit
    the plan's network, and `TaskError` if there are more processes than samples in a batch.
    """
    device, task, changes = train.device, plan.task, plan.task.data.augmentation
    rows = _rows(plan, ranks)
    cores = _cores(plan, train)
    normalize = Normalize(task.data, task.training.bf16)
    grown = grow_head(plan, parent.weights, train, normalize) if parent else GrownHead({}, 0)
    network = _start(plan, grown.weights if parent else None, pretrained, device)
    _check_rows(network, rows, train)
    appearances = _appearances(plan, train, parent)
    torch.manual_seed(derive_seed(plan.seed, "layers", ranks.rank))
    return Run(
        plan=plan,
        train=train,
        val=val,
        network=network,
        forward=network,
        optimizer=_optimizer(plan, parent, network),
        peak_rate=_peak_rate(plan),
        criterion=_criterion(plan, train),
        batch_loss=batch_loss(plan.recipe.objective, _forward(network, task.training.bf16)),
        change_gradients=gradient_changes(plan, network, train, pretrained),
        loader=_loader(plan, train, appearances, rows, cores.decoding),
        threads=cores.training,
        transform=make_transform(changes, plan.seed),
        mix=make_mix(changes, len(plan.dataset.classes), plan.seed),
        augment=Augment(task.data, task.training.bf16),
        normalize=normalize,
        augmentation=make_generator(plan.seed, "augmentation", device=device),
        counters=Counters.zeros(len(train.labels), device, _count_type(plan, len(train), appearances)),
        average=AveragedNetwork(plan.averaging, network),
        progress=Progress(evaluated_images=grown.images),
        ranks=ranks,
        rows=rows,
        parent_counters=parent.counters if parent else None,
        weight=torch.tensor((rows.stop - rows.start) * ranks.size / rows.batch, device=device),
    )


def _rows(plan: Plan, ranks: ProcessGroup) -> Rows:
    batch_size = plan.task.training.batch_size
    if batch_size < ranks.size:
        raise TaskError(
            f"training.batch_size: {batch_size} is too small for {ranks.size} processes to share: set it to "
            f"{ranks.size} or more"
        )
    return ranks.rows(batch_size)


def _check_rows(network: nn.Module, rows: Rows, train: Samples) -> None:
    """Raise `TaskError` if BatchNorm would get only one value per channel.

    This is the case if this process has one image of each batch, and the last feature maps are 1x1.
    """
    if rows.stop - rows.start > 1 or not factory.has_normalization(network):
        return
    image = train.pixels(torch.zeros(1, dtype=torch.int64, device=train.device)).float()
    try:
        with torch.no_grad():
            copy.deepcopy(network)(image)
    except ValueError as error:
        raise TaskError(
            f"training.batch_size: one image per process is too few for the network's BatchNorm ({error}): set at "
            "least 2 images per process, or set model.options.norm to group"
        ) from error


def _start(
    plan: Plan, parent: Mapping[str, Tensor] | None, pretrained: Mapping[str, Tensor] | None, device: torch.device
) -> nn.Module:
    """Return the network on its device, with its initial weights."""
    network = fresh_network(plan)
    noise = make_generator(plan.seed, "noise")
    initialize(plan.recipe.initialization, network, parent, pretrained, noise)
    return factory.to_device_channels_last(network, device).train()


def _optimizer(plan: Plan, parent: Parent | None, network: nn.Module) -> Optimizer:
    optimizer = build_optimizer(plan.task.training.optimizer, trained_parameters(network).values())
    if parent and parent.moments:
        load_moments(optimizer, parent.moments)
    return optimizer


def _criterion(plan: Plan, train: Samples) -> Criterion:
    mixes = plan.task.data.augmentation.mixup or plan.task.data.augmentation.cutmix
    return make_criterion(plan.task.training, plan.dataset.classes, train.labels, mixed=bool(mixes))


def _peak_rate(plan: Plan) -> float:
    start = plan.recipe.initialization
    return plan.task.training.optimizer.learning_rate * (start.rate if isinstance(start, ShrinkPerturb) else 1.0)


def _appearances(plan: Plan, train: Samples, parent: Parent | None) -> Tensor | None:
    """Return the mean number of appearances of each training sample in an epoch, float32 [N] on the CPU.

    None if every sample appears once.
    """
    old = (train.drop < plan.known).cpu()
    keep = keep_probability(plan.recipe.sampling, parent.counters if parent else None, old)
    if not plan.task.training.balanced_sampling:
        return keep
    balanced = balanced_appearances(train.labels.cpu())
    return balanced if keep is None else keep * balanced


def _count_type(plan: Plan, samples: int, appearances: Tensor | None) -> torch.dtype:
    """Return int16, or int32 if a sample may be seen more often than an int16 can count.

    The epochs are random, so a sample may be seen up to twice as often as the mean.
    """
    largest_share = 1 / samples if appearances is None else float(appearances.max() / appearances.sum())
    most = 2 * largest_share * plan.iterations * plan.task.training.batch_size
    return torch.int16 if most <= torch.iinfo(torch.int16).max else torch.int32


def _cores(plan: Plan, train: Samples) -> CoreShares:
    if not isinstance(train.images, ShardPixels):
        return CoreShares(0, torch.get_num_threads())
    data = plan.task.data
    if train.device.type == "cuda":
        return cores_beside_gpu(data.stream.workers)
    operations = flops.count_flops(fresh_network(plan), data.image_size).training
    return share_cores(data.stream.workers, train.images.bytes_each, operations)


def _loader(plan: Plan, train: Samples, keep: Tensor | None, rows: Rows, workers: int) -> Loader:
    sampler = partial(EpochSampler, keep, len(train), plan.task.training.batch_size, plan.seed)
    if not isinstance(train.images, ShardPixels):
        return InMemoryLoader(sampler(train.pixels_on), train, rows)
    window = plan.shuffle_shards or plan.task.data.stream.shuffle_shards
    epoch = len(train) if keep is None else float(keep.sum())
    check_room(train.images, window, epoch, plan.task.training.batch_size, workers)
    arrange = partial(window_shuffle, counts=train.images.counts, window=window)
    return StreamingLoader(sampler(torch.device("cpu"), arrange), train, train.images, rows, workers)


def _forward(network: nn.Module, bf16: bool) -> Callable[[Tensor], Tensor]:
    def forward(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            logits: Tensor = network(images)
        return logits

    return forward
