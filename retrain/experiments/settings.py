"""A study: a grid of variants x methods x splits x seeds, as its YAML file states it."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from retrain.config.fields import ConfigModel, Share
from retrain.experiments.papers import Claim, PaperRow

Aspect = Literal["initialization", "objective", "sampling", "schedule"]
Settings = dict[str, Any]
"""Overrides of a task's fields: `recipe.schedule.scale: 0.25`."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][^|\n]{0,59}$")]


PLOTS = {
    "accuracy": "accuracy over the iterations, with the crossings of L_100",
    "train_loss": "training loss over the iterations",
    "train_accuracy": "training accuracy over the iterations",
    "loss": "loss on what is held out, over the iterations",
    "final": "final accuracies over drops, splits or variants",
    "cost": "iterations that each run took, over drops, splits or variants",
    "time": "final accuracy of each run over the images that it took until `fitted` or `fitted_accuracy`",
    "correlation": "final accuracy of each run over the correlation of its final with its initial weights",
    "switch": "accuracy of the first runs, and what is lost against scratch in percent, by variant",
    "chain": "accuracy on the whole test set over all iterations so far, drop after drop",
    "learning_speed": "a map of old samples by their learning speed before and after",
    "learning_map": "a map of samples by epoch: who was classified correctly when",
    "gradient_norms": "mean norms of the gradients of old and new samples over the iterations",
}
"""What can be drawn."""

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
Measured = Literal["weight_correlation", "gradient_norms", "learning_speed", "gradient_curves", "learning_map"]


class Data(ConfigModel):
    """One data set: a folder or tar below the root, or one that can be loaded by name."""

    name: Annotated[str, Field(min_length=1)]
    """Its name below --root (an image folder, or tars of that shape), or cifar10, cifar100, svhn, digits."""
    classes: PositiveInt | None = None
    """Keep only its first so many classes, by name; all where absent."""
    per_class: PositiveInt | None = None
    """Keep only this many training images of each class, chosen by lot; all where absent."""
    held_out_per_class: PositiveInt | None = None
    """The same for its val and test images."""
    superclasses: bool = False
    """Of cifar100: its twenty superclasses instead of its classes; the limits above then count these."""
    twin: bool = False
    """Every picture is drawn anew, as of another domain: inverted, blurred and posterised."""


class Split(ConfigModel):
    """How the data lands: as drops, one after another."""

    by: Literal["classes", "share", "component", "source", "transfer", "margin"]
    """classes: so many classes a drop; share: so many percent of the images; component: the same, along their first
    principal component; source: a drop for each data set; transfer: source or, for one data set, classes, but the
    second run trains on the second drop alone; margin: share, but what comes after the first drop is what the method's
    own model is least sure of."""
    sizes: str = ""
    """What the drops get: 70+30. Left out for source, and with step."""
    step: PositiveInt | None = None
    """share, component, margin: every drop gets this many training images instead; the first also gets what is held
    out, but for two images for each later drop."""
    steps: PositiveInt | None = None
    """How many drops, with step."""
    kept: Annotated[int, Field(ge=1, le=100)] = 100
    """transfer: so many percent of the second drop's training images are kept."""

    @model_validator(mode="after")
    def _has_sizes_or_steps(self) -> "Split":
        if (self.step is None) != (self.steps is None) or (self.step and self.sizes):
            raise ValueError("step and steps go together, and without sizes")
        if self.step and self.by not in ("share", "component", "margin"):
            raise ValueError(f"step: by {self.by} has no steps; allowed: share, component, margin")
        return self


class Variant(ConfigModel):
    """One task of the grid: the study's own, with overrides."""

    set: Settings = Field(default_factory=dict)
    """Overrides for all of its runs."""
    first: Settings = Field(default_factory=dict)
    """Further overrides for the run on the first drop, which all methods continue from."""


class Method(ConfigModel):
    """One method of the grid."""

    start: Literal["scratch", "naive"] = "naive"
    """What it is but for its aspects: training from scratch, or simply going on."""
    aspects: tuple[Aspect, ...] = ()
    """The aspects in which it follows the task's recipe instead."""
    set: Settings = Field(default_factory=dict)
    """Overrides for this method, after those of the variant."""
    seeds: PositiveInt | None = None
    """It is repeated with the first so many of the study's seeds only; with all where absent."""


class Study(ConfigModel):
    """A study: every cell of its grid is an ordinary run, recorded as a trial."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    """Name of the study and of its page: lower-case letters, digits and hyphens."""
    repeats: Annotated[tuple[str, ...], Field(min_length=1)]
    """What it repeats, as `retrain study list` names it: Verwimp et al., Table 1."""
    title: str
    """Title of its page."""
    size: Literal["mini", "paper"]
    """mini: two cores, at most 30 minutes; paper: the paper's own hyper-parameters."""
    regime: str
    """The regime and why it was chosen, as stated before there were results."""
    task: str
    """A task, by name or file."""
    set: Settings = Field(default_factory=dict)
    """Overrides for the whole study."""
    data: tuple[Data, ...] = ()
    """The data sets; several are split by source."""
    redraw: bool = False
    """Every seed draws its own split: which classes or images land in which drop, and which are held out for val."""
    stop_on: Literal["val", "test"] = "val"
    """Which split curves are measured and targets met on; the papers use the test split. With test, nothing is held
    out of the training images."""
    splits: Annotated[dict[Name, Split], Field(min_length=1)]
    """By name: how the data lands."""
    variants: dict[Name, Variant] = Field(default_factory=lambda: {"task": Variant()}, min_length=1)
    """By name: tasks that differ in model, training, ..."""
    methods: Annotated[dict[Name, Method], Field(min_length=1)]
    """By name."""
    against: Annotated[tuple[str, ...], Field(min_length=1)] = ("scratch",)
    """The methods that speed-ups are measured against."""
    cost: Literal["iterations", "images"] = "iterations"
    """What L_r divides: iterations, or images where iterations are unequal work, as with batches of several sizes."""
    draw: tuple[str, ...] = ()
    """The methods whose learning curves are drawn; all where absent."""
    plots: tuple[Plot, ...] = ("accuracy",)
    """What is drawn, as `PLOTS` describes it."""
    measures: tuple[Measured, ...] = ()
    """What is measured of each run beside its accuracy: of its end, and by training it once more along the way
    (gradient_curves, learning_map), of the runs on the first drop too."""
    fitted: PositiveFloat | None = None
    """A training loss: the table says at which iteration it was first reached, as a measure of training time."""
    fitted_accuracy: Share | None = None
    """The same, for a training accuracy."""
    grids: tuple[PositiveInt, ...] = ()
    """L_100 is also given as if only every so-many-th evaluation had been made."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    """Every cell is repeated with each of them."""
    spread: Spread = "error"
    """What stands behind ± and is drawn around a mean: its standard error, or the standard deviation over seeds."""
    paper: tuple[PaperRow, ...] = ()
    """The paper's own figures, all rows: beside ours on the study's page."""
    claims: tuple[Claim, ...] = ()
    """What the paper shows and what the runs show, point by point; written after the runs."""
    findings: str = ""
    """Likely causes and what else there is to say; written after the runs."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "Study":
        for name in (*self.against, *self.draw):
            if name not in self.methods:
                raise ValueError(f"there is no method {name!r}; allowed: {', '.join(self.methods)}")
        if "time" in self.plots and self.fitted is None and self.fitted_accuracy is None:
            raise ValueError("plots: time needs fitted or fitted_accuracy, what it is the time to")
        for row in self.paper:
            for name, known in ((row.method, self.methods), (row.split, self.splits), (row.variant, self.variants)):
                if name and name not in known:
                    raise ValueError(f"paper, row {row.row}: there is no {name!r}; allowed: {', '.join(known)}")
        return self
