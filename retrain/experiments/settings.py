"""A study: a grid of variants x methods x splits x seeds, as its YAML file states it."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from retrain.config.fields import ConfigModel

Aspect = Literal["initialization", "objective", "sampling", "schedule"]
Settings = dict[str, Any]
"""Overrides of a task's fields: `recipe.schedule.scale: 0.25`."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][^|\n]{0,59}$")]


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


class Split(ConfigModel):
    """How the data lands: as drops, one after another."""

    by: Literal["classes", "share", "component", "source", "transfer", "margin"]
    """classes: so many classes a drop; share: so many percent of the images; component: the same, along their first
    principal component; source: a drop for each data set; transfer: source or, for one data set, classes, but the
    second run trains on the second drop alone; margin: share, but what comes after the first drop is what the method's
    own model is least sure of."""
    sizes: str = ""
    """What the drops get: 70+30. Left out for source."""
    kept: Annotated[int, Field(ge=1, le=100)] = 100
    """transfer: so many percent of the second drop's training images are kept."""


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
    draw: tuple[str, ...] = ()
    """The methods whose learning curves are drawn; all where absent."""
    plots: tuple[Literal["accuracy", "train_loss", "final", "time", "learning_speed"], ...] = ("accuracy",)
    """What is drawn: accuracy and training loss over the iterations; final accuracies over drops, splits or variants,
    or over the time until `fitted`; a map of old samples by their learning speed before and after."""
    measures: tuple[Literal["weight_correlation", "gradient_norms", "learning_speed"], ...] = ()
    """What is measured of each run beside its accuracy."""
    fitted: PositiveFloat | None = None
    """A training loss: the table says at which iteration it was first reached, as a measure of training time."""
    grids: tuple[PositiveInt, ...] = ()
    """L_100 is also given as if only every so-many-th evaluation had been made."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    """Every cell is repeated with each of them."""
    paper: dict[str, str] = Field(default_factory=dict)
    """What the paper has, by method or other row: beside ours on the study's page."""
    findings: str = ""
    """What agrees, what does not, and the likely cause; written after the runs."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "Study":
        for name in (*self.against, *self.draw):
            if name not in self.methods:
                raise ValueError(f"there is no method {name!r}; allowed: {', '.join(self.methods)}")
        if "time" in self.plots and self.fitted is None:
            raise ValueError("plots: time needs fitted, the training loss that it is the time to")
        return self
