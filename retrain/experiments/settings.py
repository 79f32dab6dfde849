"""The settings of a study: a grid of variants x methods x splits x seeds, in a YAML file."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from retrain.config.fields import ConfigModel, Share
from retrain.experiments.papers import Claim, PaperRow

Aspect = Literal["initialization", "objective", "sampling", "schedule"]
Settings = dict[str, Any]
"""Overrides of a task's fields: `recipe.schedule.scale: 0.25`."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][^|\n]{0,59}$")]


PLOTS = {
    "accuracy": "Accuracy of each method by iteration",
    "train_loss": "Training loss of each method by iteration",
    "train_accuracy": "Training accuracy of each method by iteration",
    "loss": "Loss of each method on held-out samples by iteration",
    "final": "Final accuracy of each method, by number of drops, split or variant",
    "cost": "Iterations of each method's run, by number of drops, split or variant",
    "time": "Final accuracy of each run by the number of images that it needed to fit its training data",
    "correlation": "Final accuracy of each run by the correlation of its final with its initial weights",
    "switch": "Accuracy of the first runs, and accuracy of later runs compared with scratch in percent, by variant",
    "chain": "Accuracy on all test images by total iterations, drop after drop",
    "learning_speed": "Map of old samples by their learning speed before and during the run",
    "learning_map": "Map of samples by epoch: the epochs in which each sample was classified correctly",
    "gradient_norms": "Mean norms of the gradients of old and new samples by iteration",
}
"""The plots, with their descriptions."""

Plot = Literal[
    "accuracy",
    "train_loss",
    "train_accuracy",
    "loss",
    "final",
    "cost",
    "time",
    "correlation",
    "switch",
    "chain",
    "learning_speed",
    "learning_map",
    "gradient_norms",
]
Spread = Literal["error", "deviation"]
MeasureName = Literal["weight_correlation", "gradient_norms", "learning_speed", "gradient_curves", "learning_map"]


class Data(ConfigModel):
    """One data set: a folder or tar below the root, or a data set that can be loaded by name."""

    name: Annotated[str, Field(min_length=1)]
    """Name of the data set below --root (an image folder, or its files in tars), or cifar10, cifar100, svhn, digits."""
    classes: PositiveInt | None = None
    """Keep only this many classes, the first by name (default: all)."""
    per_class: PositiveInt | None = None
    """Keep only this many random training images of each class (default: all)."""
    held_out_per_class: PositiveInt | None = None
    """Keep only this many random val and test images of each class (default: all)."""
    superclasses: bool = False
    """For cifar100: use its twenty superclasses as classes. The limits above then apply to them."""
    twin: bool = False
    """Change every picture to another domain: inverted, blurred and posterized."""


class Split(ConfigModel):
    """The split of the data into drops."""

    by: Literal["classes", "share", "component", "source", "transfer", "margin"]
    """classes: a number of classes per drop; share: a percentage of the images per drop; component: like share, in the
    order of the images' first principal component; source: a drop for each data set; transfer: like source (like
    classes if there is one data set), but the second run trains on the second drop only; margin: like share, but later
    drops contain the samples of which the method's own model is least sure."""
    sizes: str = ""
    """Sizes of the drops, such as 70+30. Not allowed with `by: source` or `step`."""
    step: PositiveInt | None = None
    """share, component, margin: number of training images in each drop, instead of sizes. Each later drop also has one
    val and one test image. The first drop has all other held-out images."""
    steps: PositiveInt | None = None
    """Number of drops, with step."""
    kept: Annotated[int, Field(ge=1, le=100)] = 100
    """transfer: percentage of the second drop's training images that is kept."""

    @model_validator(mode="after")
    def _has_sizes_or_steps(self) -> "Split":
        if (self.step is None) != (self.steps is None) or (self.step and self.sizes):
            raise ValueError("step and steps must be set together, without sizes: set both, or only sizes")
        if self.step and self.by not in ("share", "component", "margin"):
            raise ValueError(
                f"step: not allowed with by: {self.by}; remove step, or set by to share, component or margin"
            )
        return self

    @model_validator(mode="after")
    def _has_valid_sizes(self) -> "Split":
        if self.by == "source" and self.sizes:
            raise ValueError("sizes: not allowed with by: source, because each data set is one drop; remove sizes")
        if self.step or self.by in ("source", "transfer"):
            return self
        if not re.fullmatch(r"[1-9][0-9]*(\+[1-9][0-9]*)*", self.sizes):
            raise ValueError(f"sizes: must be positive whole numbers such as 70+30 (got {self.sizes!r})")
        if self.by != "classes" and (total := sum(map(int, self.sizes.split("+")))) != 100:
            raise ValueError(f"sizes: {self.sizes} adds up to {total}; percentages must add up to 100")
        return self


class Variant(ConfigModel):
    """One task of the grid: the study's task with overrides."""

    set: Settings = Field(default_factory=dict)
    """Overrides for all runs of the variant."""
    first: Settings = Field(default_factory=dict)
    """Further overrides for the run on the first drop. All methods continue from that run."""


class Method(ConfigModel):
    """One method of the grid."""

    start: Literal["scratch", "naive"] = "naive"
    """The base method: training from scratch, or a naive warm start."""
    aspects: tuple[Aspect, ...] = ()
    """The parts of the task's recipe that replace the same parts of the base method's recipe."""
    set: Settings = Field(default_factory=dict)
    """Overrides for this method. They are applied after the variant's overrides."""
    seeds: PositiveInt | None = None
    """Number of the study's seeds that the method runs with (default: all)."""

    @model_validator(mode="after")
    def _uses_its_settings(self) -> "Method":
        for path, value in _flatten(self.set):
            aspects = _aspects_of(path, value)
            if aspects and not set(aspects) & set(self.aspects):
                add = f"add aspects: [{', '.join(aspects)}]"
                raise ValueError(f"set: {path} does not replace the recipe of start: {self.start}; {add}")
        return self


def _flatten(settings: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting's dotted path and value, also of settings in a mapping: `recipe: {preset: paper}`."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _aspects_of(path: str, value: Any) -> tuple[str, ...]:
    """Return the aspects that a setting changes, or none if it also changes methods without aspects.

    Scratch and the naive start follow the kind of the task's schedule, its final rate and its milestones.
    """
    match path.split("."):
        case ["recipe", "preset"]:
            return get_args(Aspect)
        case ["recipe", "schedule", "final_rate" | "milestones" | "factor"]:
            return ()
        case ["recipe", "schedule", "name"] if value in ("cosine", "multistep"):
            return ()
        case ["recipe", aspect, *_] if aspect in get_args(Aspect):
            return (aspect,)
    return ()


class Study(ConfigModel):
    """A study: every cell of its grid is an ordinary run, recorded as a trial."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    """Name of the study and of its page: lower-case letters, digits and hyphens."""
    repeats: Annotated[tuple[str, ...], Field(min_length=1)]
    """The papers' tables and figures that the study repeats, as `retrain study list` names them. Example: Verwimp et
    al., Table 1."""
    title: str
    """Title of its page."""
    size: Literal["mini", "paper"]
    """mini: two cores, at most 30 minutes; paper: the paper's hyper-parameters."""
    regime: str
    """The set-up (data, network, optimizer) and the reasons for it. It is written before the first results."""
    task: str
    """A task, by name or file."""
    set: Settings = Field(default_factory=dict)
    """Overrides for all runs of the study."""
    data: Annotated[tuple[Data, ...], Field(min_length=1)]
    """The data sets. If there are several, every split has `by: source` or `by: transfer`."""
    redraw: bool = False
    """Draw a new split for each seed: which classes or images are in which drop, and which are held out for val."""
    stop_on: Literal["val", "test"] = "val"
    """The split on which curves and targets are measured. The papers use the test split. With test, no training images
    are held out."""
    splits: Annotated[dict[Name, Split], Field(min_length=1)]
    """The splits of the data into drops, by name."""
    variants: dict[Name, Variant] = Field(default_factory=lambda: {"task": Variant()}, min_length=1)
    """The variants of the task, by name. They differ in model, training or other settings."""
    methods: Annotated[dict[Name, Method], Field(min_length=1)]
    """The methods, by name."""
    against: Annotated[tuple[str, ...], Field(min_length=1)] = ("scratch",)
    """The methods that speed-ups are measured against."""
    cost: Literal["iterations", "images"] = "iterations"
    """Unit of the speed-up L_r (Verwimp et al., eq. 2). Use images if the methods' batch sizes differ."""
    draw: tuple[str, ...] = ()
    """The methods whose learning curves are drawn (default: all)."""
    plots: tuple[Plot, ...] = ("accuracy",)
    """The plots of the page."""
    measures: tuple[MeasureName, ...] = ()
    """Measures of each run besides its accuracy. gradient_curves and learning_map train the run a second time. Only
    these two are also computed for runs on the first drop."""
    fitted: PositiveFloat | None = None
    """The training loss that defines training time: the table shows the first iteration that reaches it."""
    fitted_accuracy: Share | None = None
    """Like `fitted`, but a training accuracy."""
    grids: tuple[PositiveInt, ...] = ()
    """Evaluation intervals n. For each n, L_100 is also computed from every n-th evaluation only."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    """Seeds of every cell."""
    spread: Spread = "error"
    """The meaning of ± and of bands around means: the standard error, or the standard deviation over seeds."""
    paper: tuple[PaperRow, ...] = ()
    """The paper's numbers. The study's page shows them next to its own results."""
    claims: tuple[Claim, ...] = ()
    """The paper's claims and what the runs show about each; written after the runs."""
    findings: str = ""
    """Likely causes and other findings; written after the runs."""

    def count_drops(self, split: str) -> int:
        """Return the number of drops of a split."""
        setting = self.splits[split]
        if setting.steps:
            return setting.steps
        match setting.by:
            case "source":
                return len(self.data)
            case "transfer":
                return 2
            case _:
                return setting.sizes.count("+") + 1

    @model_validator(mode="after")
    def _has_later_drops(self) -> "Study":
        for split in self.splits:
            if self.count_drops(split) < 2:
                raise ValueError(f"splits.{split}: has one drop: methods differ from the second drop on; add a drop")
        return self

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "Study":
        for name in (*self.against, *self.draw):
            if name not in self.methods:
                raise ValueError(f"there is no method {name!r}; allowed: {', '.join(self.methods)}")
        if "time" in self.plots and self.fitted is None and self.fitted_accuracy is None:
            raise ValueError("plots: `time` needs a training loss or accuracy to reach: set fitted or fitted_accuracy")
        if "chain" in self.plots and len(self.splits) * len(self.variants) > 1:
            raise ValueError("plots: `chain` shows one split of one variant: remove it, or keep only one of each")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: list each seed once (got {', '.join(map(str, self.seeds))})")
        for row in self.paper:
            for name, known in ((row.method, self.methods), (row.split, self.splits), (row.variant, self.variants)):
                if name and name not in known:
                    raise ValueError(f"paper, row {row.row}: there is no {name!r}; allowed: {', '.join(known)}")
        return self
