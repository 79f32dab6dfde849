"""A task: one retraining problem, as its YAML file states it.

Every model is frozen and refuses fields that it does not know. Each field is described under the field; the
descriptions become those of `retrain task schema`."""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from retrain.config import Metric
from retrain.config.augmentation import Augmentation
from retrain.config.automation import Erase, Tracking, Trigger, Webhook
from retrain.config.cron import Cron
from retrain.config.fields import Bytes, ConfigModel, Duration, IdentityIfSet, NoCredentials, NotIdentity, Share
from retrain.config.frame import Background, Fit, Frame, ImageSize, as_frame
from retrain.config.optimizers import Adam, Optimizer
from retrain.config.recipe import Recipe
from retrain.config.resources import Kubeflow, Resources


class Costs(ConfigModel):
    """Rates of one device. A run's record keeps those of its time, so that a new price changes no past figure."""

    price_per_device_hour: PositiveFloat | None = None
    """Money for one device (a GPU, or the CPU) for one hour; without it no figure is given in money."""
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    """ISO 4217 code of that money."""
    device_watts: PositiveFloat | None = None
    """Mean power of one device in training; without it, energy is given only if NVML or RAPL measured it."""
    grams_co2_per_kwh: PositiveFloat | None = None
    """Carbon intensity of the electricity, in grams of CO2-equivalent; without it no figure is given in CO2."""


class Stream(ConfigModel):
    """How samples are read from shards that are not held decoded."""

    shuffle_shards: PositiveInt = 16
    """Shards whose samples are mixed with each other; more shuffle better, and all of them are in the cache at once."""
    cache: Bytes = "20Gi"
    """Most bytes of shards kept on this machine's disk, for all its processes."""
    workers: Annotated[int, Field(ge=0, le=64)] | None = None
    """Processes that decode; 0: the training process itself. Where absent, as many as cores and work allow."""


LabelFrom = Annotated[str, Field(pattern=r"^(auto|folder|cls|txt|csv|json:.+)$")]


class Data(ConfigModel):
    """How images are read and augmented."""

    image_size: ImageSize = 32
    """Side of the square, or [height, width], that every image comes to, in pixels. Where it, mean or std are absent, a
    timm network and a pretrained one of torchvision have their own."""
    fit: Annotated[Fit, IdentityIfSet] = "crop"
    """crop: resized to cover that shape, the middle is kept; letterbox: resized to lie within it, the rest is black;
    stretch: resized to it, whatever its proportions."""
    background: Annotated[Background, IdentityIfSet] = "white"
    """What images with transparency are put on: white, black, or none, which ignores their transparency."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean of each channel, of values in 0..1."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.25, 0.25, 0.25)
    """Standard deviation of each channel, of values in 0..1."""
    crop_padding: Annotated[int, Field(ge=0, le=64)] = 4
    """Random crops are taken from the image padded by this many zero pixels; 0 turns them off."""
    flip: bool = True
    """Mirror half of the training images; turn it off where left and right differ (digits, text)."""
    augmentation: Annotated[Augmentation, IdentityIfSet] = Augmentation()
    """Changes of training images beyond crops and flips."""
    val_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Share of the training samples held out for validation in drops that bring no val split."""
    test_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Share of the training samples held out for testing in drops that bring no test split."""
    max_bad_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest share of a drop's samples that may be bad (undecodable, unlabelled): these are left out and named in its
    manifest. A drop with more is refused whole."""
    label_from: Annotated[LabelFrom, NotIdentity] = "auto"
    """Where labels come from: folder (class/name.png), cls or txt (a file beside each image), json:FIELD (a field of
    one), csv (a table). auto takes the only one that a drop's files allow, and refuses a drop that allows several."""
    aliases: Annotated[dict[str, str], NotIdentity] = Field(default_factory=dict)
    """Other names of classes in new drops, and the class that each becomes: {zero: d0}."""
    on_conflict: Annotated[Literal["newest", "refuse", "keep_both"], NotIdentity] = "newest"
    """What follows where an image comes again with another class: newest amends the earlier drop (within one drop,
    neither is used), refuse refuses the drop, keep_both keeps both."""
    unseen_classes: Annotated[Literal["exclude", "refuse"], NotIdentity] = "exclude"
    """What follows where a class has held-out images but none to train on: exclude leaves it out of evaluation on the
    test split, and so of the gate; refuse refuses the drop."""
    loader: Annotated[Literal["auto", "device", "memory", "stream"], NotIdentity] = "auto"
    """Where decoded training images are: device and memory hold them all, stream reads shards as they are needed.
    auto streams if they are more than half of resources.memory, and else holds them on the device if it has room."""
    stream: Annotated[Stream, NotIdentity] = Stream()
    """How samples are read from shards that are not held decoded."""

    @property
    def frame(self) -> Frame:
        """The shape that images come to, and how."""
        return as_frame(self.image_size)._replace(fit=self.fit, background=self.background)


class Model(ConfigModel):
    """The network."""

    name: str = "resnet18"
    """A torchvision classifier by name, timm/NAME, mlp, logistic, mixer, or package.module:factory called with
    (classes, image_size)."""
    stem: Literal["small", "standard"] = "small"
    """small: a 3x3 first convolution and no max-pooling, for images up to 64 pixels; standard: torchvision's own."""
    pretrained: Annotated[Annotated[str, NoCredentials] | None, NotIdentity] = None
    """A safetensors file of weights to start from: a path, s3://bucket/key, or hf-cache for those of a timm name in
    Hugging Face's local cache. The last layer starts afresh."""
    pretrained_sha256: Annotated[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None, IdentityIfSet] = None
    """SHA-256 of that file; where absent, a plan pins that of the file that it finds."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Keyword arguments of the factory: width (resnets: channels of the first stage; mlp: hidden units),
    norm (resnets: batch, group or none), ..."""


class AutoAverage(ConfigModel):
    """As the recipe's preset has it: power with the default, none with paper and naive."""

    kind: Literal["auto"] = "auto"


class PowerAverage(ConfigModel):
    """A moving average of the weights whose window grows with the run (Karras et al., 2024, "power function EMA")."""

    kind: Literal["power"] = "power"
    gamma: PositiveFloat = 7.0
    """After t updates the average keeps the share (1 - 1/t)^(gamma + 1) of itself."""


class ExponentialAverage(ConfigModel):
    """An exponential moving average of the weights."""

    kind: Literal["ema"] = "ema"
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Share of itself that the average keeps in each iteration."""


class NoAverage(ConfigModel):
    """The last weights are evaluated and promoted."""

    kind: Literal["none"] = "none"


Averaging = Annotated[AutoAverage | PowerAverage | ExponentialAverage | NoAverage, Field(discriminator="kind")]


class Stopping(ConfigModel):
    """When a run that is not at its target ends, and how surely it is at its target."""

    confirmations: PositiveInt = 2
    """Evaluations in a row that must be at the target, so that one lucky reading does not end a run."""
    plateau_window: Annotated[float, Field(gt=0, le=1)] = 0.08
    """Iterations over which a run must still improve, as a share of those that scratch takes to its accuracy. They are
    more where validation is noisy: as many times as the accuracy's standard error is larger than one point."""
    plateau_gain: Share = 0.0025
    """Least accuracy (a share, so 0.0025 is a quarter of a point) that it must gain over that window."""
    plateau_errors: NonNegativeFloat = 0.5
    """Standard errors of its accuracy on val that it must gain, where they are more."""
    plateau_excess: PositiveFloat = 0.02
    """Accuracy above a target carried over from earlier drops that doubles the gain asked for."""
    patience: PositiveFloat = 1.5
    """Windows without such a gain after which a run below its target is given up."""


class Training(ConfigModel):
    """One training, the same for every method: L_r compares iterations, which is fair only at equal work."""

    epochs: PositiveFloat = 100
    """Length of scratch's schedule, in passes over the whole dataset."""
    iterations: Annotated[PositiveInt | None, IdentityIfSet] = None
    """Length of scratch's schedule in iterations, however large the dataset is; by `epochs` where absent."""
    stop_at_train_accuracy: Annotated[Share | None, IdentityIfSet] = None
    """Training accuracy at which a run that has no target ends before its schedule (Ash & Adams train up to 0.99)."""
    batch_size: PositiveInt = 128
    """Samples in an iteration."""
    optimizer: Optimizer = Adam()
    """adam, adamw or sgd."""
    warmup: Annotated[NonNegativeInt, IdentityIfSet] = 0
    """Iterations over which the learning rate rises in equal steps at the start of every run; a constant schedule has
    its own, and the longer one counts."""
    clip_norm: Annotated[PositiveFloat | None, IdentityIfSet] = None
    """Largest norm of the loss's gradient: a larger one is scaled down to it."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1), IdentityIfSet] = 0.0
    """Share of each label's weight that is spread over all classes."""
    class_weights: Annotated[Literal["none", "inverse"] | dict[str, PositiveFloat], IdentityIfSet] = "none"
    """Weights of the classes in the loss. inverse: by how rare a class is among the training samples; or a weight for
    each class by name, 1 for those left out. They are scaled so that the mean over the training samples is 1."""
    balanced_sampling: Annotated[bool, IdentityIfSet] = False
    """Draw all classes equally often: samples of rare ones appear several times in an epoch, some of common ones not
    at all."""
    evaluate_every: Literal["auto"] | PositiveFloat = "auto"
    """Epochs between evaluations on val: the grid on which targets can be met, the same for all methods. auto: sixty
    evaluations in scratch's schedule, or fewer where they would take more than a tenth of the training."""
    averaging: Annotated[Averaging, NotIdentity] = AutoAverage()
    """What is evaluated, stopped on and promoted: an average of the weights (power, ema) or the last ones (none)."""
    stopping: Annotated[Stopping, NotIdentity] = Stopping()
    """When a run that is not at its target ends, and how surely it is at its target."""
    bf16: bool = False
    """Autocast to bfloat16."""
    compile: Annotated[Literal["none", "compile", "graphs"], NotIdentity] = "none"
    """compile: by torch.compile, which takes a minute before the first step; graphs: into CUDA graphs too."""
    optimizer_state: Literal["reset", "kept"] = "reset"
    """kept: a run keeps its optimiser's moments beside its model, and starts from its parent's, for comparison."""
    learning_speed: Literal["free", "exact"] = "free"
    """free: counted in the training forward pass; exact: by an evaluation of all training samples after each pass."""
    index_decay: Share = 0.5
    """Weight of the parent's learning-speed counters beside a run's own."""
    save_seconds: Annotated[float, Field(ge=0), NotIdentity] = 120
    """Time between saves of the run's state, in seconds: at most this much is lost when a machine is."""

    @field_validator("averaging", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        """Let `averaging: none` stand for `averaging: {kind: none}`."""
        return {"kind": value} if isinstance(value, str) else value


class Refresh(ConfigModel):
    """When the baseline is measured anew by a scratch run, beyond the first."""

    every: PositiveInt | None = None
    """Once the baseline is this many drops old."""
    on_new_classes: bool = False
    """Whenever new classes appear."""
    on_miss: bool = False
    """When a run ended below its target, and its schedule has no longer one to escalate to."""


class Baseline(ConfigModel):
    """The scratch run that targets come from."""

    refresh: Refresh = Refresh()
    """When it is measured anew."""


class Target(ConfigModel):
    """What a run must reach."""

    level: Annotated[float, Field(gt=0, le=100)] = 100
    """r: the target is r/100 of the baseline's score; reaching it stops the run (L_100, L_99)."""
    metric: Metric = "accuracy"
    """What scores a model, for target, stop rule and gate. accuracy; balanced_accuracy: the mean of the accuracies in
    every class; macro_f1: the mean of the classes' F1; top5_accuracy: the class is among the five likeliest."""


class Gate(ConfigModel):
    """What a candidate must show on the test split before it replaces the champion."""

    margin: Share = 0.02
    """Largest loss of score (target.metric) against the champion that is never refused. A larger one is refused if the
    interval of (candidate - champion) shows that there is a loss."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Two-sided confidence of that interval."""
    min_accuracy: Share = 0.0
    """Floor of the candidate's score (target.metric) over all test samples."""
    min_old_accuracy: Share = 0.0
    """Floor of its score on the test samples of drops that the champion knew."""
    min_class_accuracy: Share = 0.0
    """Floor of its accuracy in every class."""
    max_negative_flips: Share = 1.0
    """Largest share of test samples that the champion had right and the candidate has wrong."""
    approval: Literal["automatic", "manual"] = "automatic"
    """manual: a candidate that meets all conditions waits until a person says `retrain approve` or `retrain reject`."""
    approval_timeout: Duration = "7d"
    """How long it waits (30m, 6h, 7d, 2w); then it is refused."""


SCHEMA_VERSION = 1
"""Of task files: counted up when a file would mean something else (`retrain.config.migration`)."""


class Task(ConfigModel):
    """One retraining problem: where its data and models are, and how it is retrained."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    """Name in paths, metrics and the cluster: lower-case letters, digits and hyphens."""
    schema_version: Annotated[PositiveInt, NotIdentity] = SCHEMA_VERSION
    """Version of the file's format; `retrain task migrate` rewrites a file of an earlier one."""
    store: Annotated[str, Field(min_length=1), NoCredentials, NotIdentity] = "store"
    """s3://bucket/prefix, or a local folder (relative to where the command runs)."""
    endpoint_url: Annotated[Annotated[str, NoCredentials] | None, NotIdentity] = None
    """Address of an S3-compatible server, without credentials; AWS's own where absent."""
    seed: Annotated[int, Field(ge=0, lt=2**32), NotIdentity] = 0
    """Seed of everything random."""
    data: Data = Data()
    """How images are read and augmented."""
    model: Model = Model()
    """The network."""
    factories: Annotated[tuple[Annotated[str, Field(pattern=r"^[\w.]+:\w+$")], ...], NotIdentity] = ()
    """package.module:factory names of the task's earlier models: no plan in the store can have other code run."""
    recipe: Annotated[Recipe, NotIdentity] = Recipe()
    """The continuous method's four aspects."""
    training: Training = Training()
    """One training, the same for every method."""
    baseline: Annotated[Baseline, NotIdentity] = Baseline()
    """The scratch run that targets come from."""
    target: Annotated[Target, NotIdentity] = Target()
    """What a run must reach."""
    gate: Annotated[Gate, NotIdentity] = Gate()
    """What a candidate must show before it is promoted."""
    costs: Annotated[Costs, NotIdentity] = Costs()
    """What a device costs, for figures in energy and money."""
    resources: Annotated[Resources, NotIdentity] = Resources()
    """What the pods of its pipeline ask of the cluster."""
    schedule: Annotated[Cron | None, NotIdentity] = None
    """When `retrain watch` retrains on what has landed, in cron's five fields and UTC; at once where absent."""
    trigger: Annotated[Trigger, NotIdentity] = Trigger()
    """What must hold before `retrain run` or `retrain watch` starts a retraining on what has landed."""
    erase: Annotated[Erase, NotIdentity] = Erase()
    """What follows for models when samples are erased."""
    webhooks: Annotated[tuple[Webhook, ...], NotIdentity] = ()
    """HTTP endpoints that receive the task's events."""
    tracking: Annotated[Tracking, NotIdentity] = Tracking()
    """Experiment trackers that learn of ended runs and promotions."""
    kubeflow: Annotated[Kubeflow, NotIdentity] = Kubeflow()
    """Where its pipeline is submitted to."""

    @field_validator("trigger")
    @classmethod
    def _budget_has_a_price(cls, trigger: Trigger, info: ValidationInfo) -> Trigger:
        """Refuse a budget in money without a price."""
        costs = info.data.get("costs")
        if trigger.budget.cost and costs and costs.price_per_device_hour is None:
            raise PydanticCustomError("incomplete", "budget.cost needs costs.price_per_device_hour")
        return trigger
