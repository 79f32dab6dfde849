"""The settings of a task: one retraining problem, in one YAML file.

Every model is frozen and refuses unknown fields. The descriptions under the fields appear in `retrain task schema`."""

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
from retrain.config.fields import (
    NAME_PATTERN,
    SHA256_PATTERN,
    Bytes,
    ConfigModel,
    Duration,
    Epochs,
    IdentityIfSet,
    Iterations,
    NoCredentials,
    NotIdentity,
    Share,
)
from retrain.config.frame import Background, Fit, Frame, ImageSize, as_frame
from retrain.config.optimizers import Adam, Optimizer
from retrain.config.recipe import Recipe
from retrain.config.resources import Kubeflow, Resources


class Costs(ConfigModel):
    """Rates of one device. A run's record contains its rates, so a new price does not change the costs of past runs."""

    price_per_device_hour: PositiveFloat | None = None
    """Price of one device (a GPU, or the CPU) for one hour. Without it, no cost is reported."""
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    """Currency of the price, as an ISO 4217 code such as EUR."""
    device_watts: PositiveFloat | None = None
    """Mean power of one device in training. Without it, energy is reported only if NVML or RAPL measures it."""
    grams_co2_per_kwh: PositiveFloat | None = None
    """Carbon intensity of the electricity, in grams of CO2-equivalent per kWh. Without it, no CO2 is reported."""


class Stream(ConfigModel):
    """Settings of streaming samples from shards, for a dataset that is too large to keep decoded in memory."""

    shuffle_shards: PositiveInt = 16
    """Number of shards whose samples are shuffled together. More shards give a better shuffle. The cache needs room for
    all of them."""
    cache: Bytes = "20Gi"
    """Size limit of the shard cache on this machine's disk, such as 20Gi, for all its processes."""
    workers: Annotated[int, Field(ge=0, le=64)] | None = None
    """Number of decoding processes (default: by the number of cores). With 0, the training process decodes."""


LabelFrom = Annotated[str, Field(pattern=r"^(auto|folder|cls|txt|csv|json:.+)$")]


class Data(ConfigModel):
    """Settings of reading and augmenting images."""

    image_size: ImageSize = 32
    """Side of the square, or [height, width], that every image is resized to, in pixels. If image_size, mean or std are
    absent, timm networks and pretrained torchvision networks use their own."""
    fit: Annotated[Fit, IdentityIfSet] = "crop"
    """The method that brings an image to image_size. crop resizes it until it covers this size, and crops the centre.
    letterbox resizes it to fit inside this size, and pads it with black. stretch resizes it without keeping
    proportions."""
    background: Annotated[Background, IdentityIfSet] = "white"
    """Background of transparent images: white or black. With none, transparency is ignored."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean of each channel, for pixel values in 0..1."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.25, 0.25, 0.25)
    """Standard deviation of each channel, for pixel values in 0..1."""
    crop_padding: Annotated[int, Field(ge=0, le=64)] = 4
    """Width of the border of zeros around an image from which random crops are taken. 0 turns random crops off."""
    flip: bool = True
    """Mirror half of the training images. Turn it off if left and right differ (digits, text)."""
    augmentation: Annotated[Augmentation, IdentityIfSet] = Augmentation()
    """Random transforms of training images beyond crops and flips."""
    val_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Share of the training samples held out for validation in drops without a val split."""
    test_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Share of the training samples held out for testing in drops without a test split."""
    max_bad_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest share of a drop's samples that may be bad (undecodable, unlabelled). Bad samples are left out and listed
    in the manifest. A drop with a larger share is refused."""
    label_from: Annotated[LabelFrom, NotIdentity] = "auto"
    """Source of the labels: folder (class/name.png), cls or txt (a file next to each image), json:FIELD (a field of a
    JSON file next to it), csv (a table). auto takes the only possible source, and refuses a drop with several."""
    aliases: Annotated[dict[str, str], NotIdentity] = Field(default_factory=dict)
    """Other names of classes in new drops, each with the class that it is renamed to: {zero: d0}."""
    on_conflict: Annotated[Literal["newest", "refuse", "keep_both"], NotIdentity] = "newest"
    """Action if an image arrives again with another class. newest amends the earlier drop (within one drop, neither
    image is used). refuse refuses the drop. keep_both keeps both images."""
    unseen_classes: Annotated[Literal["exclude", "refuse"], NotIdentity] = "exclude"
    """Action if a class has held-out images but no training images. exclude leaves the class out of the evaluation on
    the test split and out of the gate. refuse refuses the drop."""
    loader: Annotated[Literal["auto", "device", "memory", "stream"], NotIdentity] = "auto"
    """Place of the decoded training images: device (memory of the training device), memory (main memory), or stream
    (they are not kept: shards are read when needed). auto is stream if the images exceed half of resources.memory.
    Otherwise it is device if they fit there, and else memory."""
    stream: Annotated[Stream, NotIdentity] = Stream()
    """Settings of streaming samples from shards, for a dataset that is too large to keep decoded in memory."""

    @property
    def frame(self) -> Frame:
        """Return the shape that images are resized to, and the method of resizing."""
        return as_frame(self.image_size)._replace(fit=self.fit, background=self.background)


class Model(ConfigModel):
    """The network."""

    name: str = "resnet18"
    """A torchvision classifier by name, timm/NAME, mlp, logistic, mixer, or package.module:factory, called with
    (classes, image_size)."""
    stem: Literal["small", "standard"] = "small"
    """The first layers. small is a 3x3 convolution without max-pooling, for images up to 64 pixels. standard is
    torchvision's stem, and the default if pretrained is set."""
    pretrained: Annotated[Annotated[str, NoCredentials] | None, NotIdentity] = None
    """A safetensors file of initial weights: a path, s3://bucket/key (or gs://, az://), or hf-cache for the weights of
    a timm network in Hugging Face's local cache. The last layer is newly initialized."""
    pretrained_sha256: Annotated[Annotated[str, Field(pattern=SHA256_PATTERN)] | None, IdentityIfSet] = None
    """SHA-256 of the file that pretrained names (default: each plan records the SHA-256 of the file that it finds)."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Keyword arguments of the factory, such as width (channels of a resnet's first stage, hidden units of an mlp) and
    norm (of a resnet: batch, group or none)."""


class AutoAverage(ConfigModel):
    """The average that the recipe's preset chooses: power for default, none for paper and naive."""

    kind: Literal["auto"] = "auto"


class PowerAverage(ConfigModel):
    """A moving average of the weights whose window grows with the run (Karras et al., 2024, "power function EMA")."""

    kind: Literal["power"] = "power"
    gamma: PositiveFloat = 7.0
    """At update t, the previous average has the weight (1 - 1/t)^(gamma + 1)."""


class ExponentialAverage(ConfigModel):
    """An exponential moving average of the weights."""

    kind: Literal["ema"] = "ema"
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Weight of the previous average in each update."""


class NoAverage(ConfigModel):
    """No averaging: the last weights are evaluated and promoted."""

    kind: Literal["none"] = "none"


Averaging = Annotated[AutoAverage | PowerAverage | ExponentialAverage | NoAverage, Field(discriminator="kind")]


class Stopping(ConfigModel):
    """Rules that end a run at its target or below it. A carried target comes from a baseline on an earlier dataset."""

    confirmations: PositiveInt = 2
    """Number of last evaluations whose mean must be at the target. One lucky evaluation then does not end a run."""
    plateau_window: Annotated[float, Field(gt=0, le=1)] = 0.08
    """Iterations within which a run must improve, as a share of s_scratch (the iterations after which scratch first
    reaches its final accuracy). If the standard error of the validation accuracy exceeds one point, the window grows in
    proportion."""
    plateau_gain: Share = 0.0025
    """Smallest gain in accuracy within plateau_window that counts as an improvement (0.0025 is a quarter of a point).
    If the standard error exceeds two points, a run at a carried target also continues while its loss falls by the
    equivalent of this gain."""
    plateau_errors: NonNegativeFloat = 0.5
    """The same limit as plateau_gain, but in standard errors of the validation accuracy. The larger of the two limits
    applies."""
    plateau_excess: PositiveFloat = 0.02
    """Accuracy above a carried target at which the required gain doubles."""
    improve_until: PositiveFloat = 0.4
    """Share of s_scratch after which a run ends even if it still improves, if it is at most half a standard error below
    a carried target. A run that improves fast continues until it is above the accuracy expected of scratch, but at most
    until twice this share. If the parent has fitted its data, a run far above that accuracy can end from half of this
    share on."""
    patience: PositiveFloat = 1.5
    """Number of windows (plateau_window) without a sufficient gain after which a run below its target ends. If the
    run is then at most 1.64 standard errors below the target, it counts as having reached it."""


class Training(ConfigModel):
    """Settings of training, the same for every method. L_r compares numbers of iterations, so an iteration
    must cost the same for all methods."""

    epochs: Epochs = 100
    """Length of scratch's schedule, in epochs over the whole dataset."""
    iterations: Annotated[Iterations | None, IdentityIfSet] = None
    """Length of scratch's schedule in iterations, for any size of the dataset (default: by `epochs`)."""
    stop_at_train_accuracy: Annotated[Share | None, IdentityIfSet] = None
    """Training accuracy at which a run without a target ends, even before the end of its schedule (Ash & Adams train up
    to 0.99)."""
    batch_size: PositiveInt = 128
    """Samples per iteration."""
    optimizer: Optimizer = Adam()
    """adam, adamw or sgd."""
    warmup: Annotated[NonNegativeInt, IdentityIfSet] = 0
    """Iterations of linear warm-up at the start of every run. A constant schedule has its own warm-up. The longer of
    the two is used."""
    clip_norm: Annotated[PositiveFloat | None, IdentityIfSet] = None
    """Largest norm of the gradient of the loss. A larger gradient is scaled down."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1), IdentityIfSet] = 0.0
    """Share of each label's weight that is spread over all classes."""
    class_weights: Annotated[Literal["none", "inverse"] | dict[str, PositiveFloat], IdentityIfSet] = "none"
    """Weights of the classes in the loss. With inverse, a weight is inversely proportional to the class's number of
    training samples. A mapping gives weights by class name, and 1 to classes that it leaves out. Weights are scaled so
    that their mean over the samples is 1."""
    balanced_sampling: Annotated[bool, IdentityIfSet] = False
    """Draw all classes equally often. Samples of rare classes appear several times in an epoch, and some samples of
    common classes do not appear."""
    evaluate_every: Literal["auto"] | Epochs = "auto"
    """Epochs between evaluations on val, the same for all methods. A target can be met only at an evaluation. auto:
    sixty evaluations in scratch's schedule, or fewer if they would take more than a tenth of the training."""
    averaging: Annotated[Averaging, NotIdentity] = AutoAverage()
    """The weights that are evaluated and promoted: an average (power, ema) or the last ones (none)."""
    stopping: Annotated[Stopping, NotIdentity] = Stopping()
    """Rules that end a run at its target or below it."""
    bf16: bool = False
    """Train with automatic mixed precision in bfloat16."""
    compile: Annotated[Literal["none", "compile", "graphs", "step"], NotIdentity] = "none"
    """compile uses torch.compile, which takes half a minute before the first step. graphs also uses CUDA graphs. step
    records the whole iteration as one CUDA graph. On a GPU, step is fastest for small batches."""
    optimizer_state: Literal["reset", "kept"] = "reset"
    """kept: start from the optimizer state of the parent and save it with the model, for comparison."""
    learning_speed: Literal["free", "exact"] = "free"
    """The method that counts learning speed. free counts in the training forward pass. exact evaluates all training
    samples after each epoch."""
    index_decay: Share = 0.5
    """Weight of the parent's learning-speed counters relative to a run's own."""
    save_seconds: Annotated[NonNegativeFloat, NotIdentity] = 120
    """Seconds between saves of the run's state. If the machine fails, at most this time of training is repeated."""

    @field_validator("averaging", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        """Let `averaging: none` stand for `averaging: {kind: none}`."""
        return {"kind": value} if isinstance(value, str) else value


class Refresh(ConfigModel):
    """Conditions under which a scratch run measures the baseline again."""

    every: PositiveInt | None = None
    """Measure again once the baseline is this many drops old."""
    on_new_classes: bool = False
    """Measure again when new classes appear."""
    on_miss: bool = False
    """Measure again when a run missed its target and no escalation to a longer schedule is left."""


class Baseline(ConfigModel):
    """The scratch run that targets come from."""

    refresh: Refresh = Refresh()
    """Conditions under which the baseline is measured again."""


class Target(ConfigModel):
    """The target that a run must reach."""

    level: Annotated[float, Field(gt=0, le=100)] = 100
    """The target as a percentage of the baseline's score: the r of the speed-up L_r. A run stops when it reaches the
    target."""
    metric: Metric = "accuracy"
    """The score used by target, stop rule and gate. balanced_accuracy is the mean of the classes' accuracies, and
    macro_f1 the mean of the classes' F1. For top5_accuracy the true class must be among the five most likely."""


class Gate(ConfigModel):
    """Conditions that a candidate must meet on the test split to replace the champion."""

    margin: Share = 0.02
    """Tolerance for the candidate's score (target.metric). A candidate passes if its score is at most this far below
    the champion's. With a lower score, it is refused only if the whole confidence interval of (candidate - champion) is
    below zero."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Two-sided confidence level of the interval of (candidate - champion)."""
    min_accuracy: Share = 0.0
    """Lowest allowed score (target.metric) of the candidate on all test samples."""
    min_old_accuracy: Share = 0.0
    """Lowest allowed score on the test samples of the drops that the champion was trained on."""
    min_class_accuracy: Share = 0.0
    """Lowest allowed accuracy in every class."""
    max_negative_flips: Share = 1.0
    """Largest share of test samples that the champion classifies correctly and the candidate does not."""
    approval: Literal["automatic", "manual"] = "automatic"
    """manual: a candidate that meets all conditions waits for `retrain approve` or `retrain reject`."""
    approval_timeout: Duration = "7d"
    """Time to wait for approval (30m, 6h, 7d, 2w). After this time, the candidate is refused."""


SCHEMA_VERSION = 1
"""Version of the format of task files. It rises when existing files would get another meaning.
`retrain.config.migration` updates such files."""


class Task(ConfigModel):
    """One retraining problem: where its data and models are, and how it is retrained."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    """Name used in paths, metrics and the cluster: at most 63 lower-case letters, digits and hyphens."""
    schema_version: Annotated[PositiveInt, NotIdentity] = SCHEMA_VERSION
    """Version of the file's format. `retrain task migrate` updates a file of an earlier version."""
    store: Annotated[str, Field(min_length=1), NoCredentials, NotIdentity] = "store"
    """s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, or a local folder (relative to the working
    directory)."""
    endpoint_url: Annotated[Annotated[str, NoCredentials] | None, NotIdentity] = None
    """Address of an S3-compatible server, or of the Azure account (https://ACCOUNT.blob.core.windows.net), without
    credentials (default: the cloud's own)."""
    seed: Annotated[int, Field(ge=0, lt=2**32), NotIdentity] = 0
    """Random seed."""
    data: Data = Data()
    """Settings of reading and augmenting images."""
    model: Model = Model()
    """The network."""
    factories: Annotated[tuple[Annotated[str, Field(pattern=r"^[\w.]+:\w+$")], ...], NotIdentity] = ()
    """package.module:factory names of the task's earlier models. Plans in the store can run only these factories
    and the factory in model.name."""
    recipe: Annotated[Recipe, NotIdentity] = Recipe()
    """The four aspects of the continuous method."""
    training: Training = Training()
    """Settings of training, the same for every method."""
    baseline: Annotated[Baseline, NotIdentity] = Baseline()
    """The scratch run that targets come from."""
    target: Annotated[Target, NotIdentity] = Target()
    """The target that a run must reach."""
    gate: Annotated[Gate, NotIdentity] = Gate()
    """Conditions that a candidate must meet to be promoted."""
    costs: Annotated[Costs, NotIdentity] = Costs()
    """Rates of a device, for costs in money, energy and CO2."""
    resources: Annotated[Resources, NotIdentity] = Resources()
    """Resources of the pods on a cluster."""
    schedule: Annotated[Cron | None, NotIdentity] = None
    """Times at which `retrain watch` starts runs: five cron fields, in UTC (default: as soon as drops land)."""
    trigger: Annotated[Trigger, NotIdentity] = Trigger()
    """Conditions under which `retrain run` or `retrain watch` starts a retraining."""
    erase: Annotated[Erase, NotIdentity] = Erase()
    """The next run's treatment of a champion that was trained on erased samples."""
    webhooks: Annotated[tuple[Webhook, ...], NotIdentity] = ()
    """HTTP endpoints that receive the task's events."""
    tracking: Annotated[Tracking, NotIdentity] = Tracking()
    """Experiment trackers that receive ended runs and promotions."""
    kubeflow: Annotated[Kubeflow, NotIdentity] = Kubeflow()
    """The Kubeflow server that runs the task's pipeline."""

    @property
    def allowed_factories(self) -> frozenset[str]:
        """Return the names of networks whose code may run: the model's name and the names in `factories`."""
        return frozenset({self.model.name, *self.factories})

    @field_validator("trigger")
    @classmethod
    def _budget_has_a_price(cls, trigger: Trigger, info: ValidationInfo) -> Trigger:
        """Raise if there is a budget in money without a price."""
        costs = info.data.get("costs")
        if trigger.budget.cost and costs and costs.price_per_device_hour is None:
            raise PydanticCustomError(
                "incomplete", "budget.cost is set, so costs.price_per_device_hour must be set too"
            )
        return trigger
