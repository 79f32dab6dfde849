"""The settings of a task's `recipe`: the four aspects of a method (Verwimp et al., section 3).

The descriptions under the fields appear in `retrain task schema`."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from retrain.config import Method
from retrain.config.fields import ConfigModel, IdentityIfSet, Multiple, Share


class Fresh(ConfigModel):
    """A newly initialized network, as in training from scratch."""

    name: Literal["fresh"] = "fresh"
    scale: Annotated[PositiveFloat, IdentityIfSet] = 1.0
    """Factor on the new network's weights, for comparison. It shows the effect of shrinking without a parent."""


HeadRows = Literal["fresh", "class_means"]
"""Initialization of the last layer's weights for classes that the parent never saw."""


class Auto(ConfigModel):
    """Shrink-and-perturb. Its alpha and learning rate follow from the parent's network and from how well it fits its
    training data. The plan states the choice."""

    name: Literal["auto"] = "auto"
    alpha: Share = 0.4
    """Smallest weight of the parent's parameters, used if the parent has fitted its training data. A network with
    neither BatchNorm nor pretrained weights uses at least 0.8."""
    beta: Share = 0.001
    """Weight of the newly initialized network, if the parent's parameters are shrunk."""
    head_rows: HeadRows = "class_means"
    """The last layer's weights for new classes: fresh (newly initialized), or class_means of the parent's features."""


class Warm(ConfigModel):
    """The parent's parameters and buffers, unchanged: the naive warm start."""

    name: Literal["warm"] = "warm"
    head_first: Share = 0.0
    """Share of the schedule during which only the last layer is trained, for comparison."""
    head_rows: HeadRows = "fresh"
    """The last layer's weights for new classes: fresh (newly initialized), or class_means of the parent's features."""


class ShrinkPerturb(ConfigModel):
    """Shrink-and-perturb: alpha * old + beta * fresh (Verwimp et al., eq. 4)."""

    name: Literal["shrink_perturb"] = "shrink_perturb"
    alpha: Share = 0.4
    """Weight of the parent's parameters."""
    beta: Share = 0.001
    """Weight of the newly initialized network."""
    buffers: Literal["fresh", "old"] = "fresh"
    """BatchNorm's running statistics: fresh (newly initialized) or old (the parent's)."""
    rate: PositiveFloat = 1.0
    """Factor on the learning rate. A factor below 1 suits weights that are small compared with a step."""
    least_norm: Share = 0.0
    """Smallest norm of all shrunk parameters together, as a share of a new network's norm. A parent whose norm is
    already small is shrunk less, or not at all. 0: always shrink by alpha, so consecutive runs shrink repeatedly."""
    new_rows: Literal["fresh", "perturbed", "class_means"] = "fresh"
    """The last layer's weights for new classes: fresh (newly initialized), perturbed (beta times newly initialized
    weights), or class_means of the parent's features."""


class GaussianNoise(ConfigModel):
    """The parent's parameters plus Gaussian noise (Ash & Adams, section 3.7), for comparison."""

    name: Literal["noise"] = "noise"
    deviation: NonNegativeFloat = 0.01
    """Standard deviation of the noise."""


Initialization = Annotated[Fresh | Auto | Warm | ShrinkPerturb | GaussianNoise, Field(discriminator="name")]


class NoPenalty(ConfigModel):
    """Only the loss, without a penalty."""

    name: Literal["none"] = "none"


class L2(ConfigModel):
    """loss + strength * ||theta||^2."""

    name: Literal["l2"] = "l2"
    strength: NonNegativeFloat = 0.01
    """Lambda: the factor on the penalty."""


class L2Init(ConfigModel):
    """loss + strength * ||theta - anchor||^2 (Verwimp et al., eq. 5)."""

    name: Literal["l2_init"] = "l2_init"
    strength: NonNegativeFloat = 0.01
    """Lambda: the factor on the penalty."""
    anchor: Literal["origin", "fresh", "start"] = "start"
    """theta_0: origin (the initial weights of the scratch run at the beginning of the chain of parents), fresh (this
    run's new network) or start (this run's initial weights). start gave the best results in
    docs/evidence/cifar100-mini.md."""


class Ewc(ConfigModel):
    """Elastic weight consolidation: loss + strength/2 * sum of F * (theta - start)^2, for comparison."""

    name: Literal["ewc"] = "ewc"
    strength: NonNegativeFloat = 100.0
    """Lambda: the factor on the penalty."""
    samples: PositiveInt = 1000
    """Number of old samples for the estimate of the Fisher information F."""


class ConfidencePenalty(ConfigModel):
    """loss - strength * the entropy of the predictions, for comparison."""

    name: Literal["confidence_penalty"] = "confidence_penalty"
    strength: NonNegativeFloat = 0.1
    """Beta: the factor on the entropy."""


class Adversarial(ConfigModel):
    """The mean of the losses on images and on their fast-gradient-sign adversarial versions, for comparison."""

    name: Literal["adversarial"] = "adversarial"
    epsilon: NonNegativeFloat = 0.1
    """Change of each pixel, in units of normalized pixels."""


Objective = Annotated[NoPenalty | L2 | L2Init | Ewc | ConfidencePenalty | Adversarial, Field(discriminator="name")]


class Uniform(ConfigModel):
    """Every sample once per epoch."""

    name: Literal["uniform"] = "uniform"


class EasyHard(ConfigModel):
    """The easiest and hardest old samples rarely, all others once per epoch (Verwimp et al., section 3.3)."""

    name: Literal["easy_hard"] = "easy_hard"
    share: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Share of the old samples that counts as easy: half of the paper's c. The same share counts as hard."""
    probability: Share = 0.1
    """r: the probability that an easy or hard old sample appears in an epoch."""


class OldNew(ConfigModel):
    """Old and new samples in a fixed proportion, for comparison (Verwimp et al., section 3.3)."""

    name: Literal["old_new"] = "old_new"
    new: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of new samples in an epoch."""


Sampling = Annotated[Uniform | EasyHard | OldNew, Field(discriminator="name")]

Scale = Literal["auto"] | Multiple


class OpenEnded(ConfigModel):
    """A schedule of runs that end by their stop rule. Its length is only a budget."""

    name: str
    scale: Multiple = 1.0
    """Largest number of iterations, as a multiple of scratch's schedule: the budget of a run that misses its target."""
    warmup: NonNegativeInt = 10
    """Iterations of linear warm-up."""


class AutoSchedule(OpenEnded):
    """inverse_time for a network with neither BatchNorm nor pretrained weights, if its steps are large relative to its
    weights. Otherwise constant. The plan states the choice."""

    name: Literal["auto"] = "auto"


class Constant(OpenEnded):
    """A constant learning rate after a warm-up. The run's length need not be known in advance."""

    name: Literal["constant"] = "constant"


class InverseTime(OpenEnded):
    """A learning rate that falls as 1/(1 + t/h) after a warm-up. The run's length need not be known in advance."""

    name: Literal["inverse_time"] = "inverse_time"
    half: PositiveFloat = 0.2
    """h: the time at which the rate is half of the peak, as a share of scratch's schedule."""


class Cosine(ConfigModel):
    """A half cosine from the learning rate to `final_rate` (Verwimp et al., section 3.4)."""

    name: Literal["cosine"] = "cosine"
    scale: Scale = "auto"
    """Length as a multiple of scratch's schedule. auto: 0.25 if less than half of the data is new, otherwise 0.5."""
    final_rate: NonNegativeFloat = 0.0
    """Learning rate at the end of the schedule (Verwimp et al., A.2: 1e-6)."""
    escalation: tuple[Multiple, ...] = ()
    """Longer schedules, as multiples of scratch's schedule. They are tried one after another after a missed target."""


class MultiStep(ConfigModel):
    """The learning rate falls by a factor at each milestone."""

    name: Literal["multistep"] = "multistep"
    scale: Scale = "auto"
    """Length as a multiple of scratch's schedule. auto: 0.25 if less than half of the data is new, otherwise 0.5."""
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75)
    """Points at which the rate falls, as shares of the schedule."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Factor on the learning rate at each milestone."""
    escalation: tuple[Multiple, ...] = ()
    """Longer schedules, as multiples of scratch's schedule. They are tried one after another after a missed target."""


Schedule = Annotated[AutoSchedule | Constant | InverseTime | Cosine | MultiStep, Field(discriminator="name")]


Preset = Literal["default", "paper", "naive"]

PRESETS: dict[Preset, dict[str, dict[str, Any]]] = {
    "default": {
        "initialization": {"name": "auto"},
        "objective": {"name": "none"},
        "sampling": {"name": "uniform"},
        "schedule": {"name": "auto"},
    },
    "paper": {
        "initialization": {"name": "shrink_perturb", "alpha": 0.4, "beta": 0.001},
        "objective": {"name": "l2_init", "strength": 0.01, "anchor": "origin"},
        "sampling": {"name": "easy_hard", "share": 0.1, "probability": 0.1},
        "schedule": {"name": "cosine", "final_rate": 1e-6, "escalation": (0.25, 0.5, 1.0)},
    },
    "naive": {
        "initialization": {"name": "warm"},
        "objective": {"name": "none"},
        "sampling": {"name": "uniform"},
        "schedule": {"name": "cosine", "scale": 1.0},
    },
}
"""Each preset's settings of the four aspects. `paper` is exactly Verwimp et al. (sections 3.1 to 3.4, A.2)."""


class Recipe(ConfigModel):
    """The four aspects of the continuous method. The preset supplies the aspects that are left out."""

    preset: Preset = "default"
    """The source of all aspects that are left out. default has averaged weights and no fixed length. paper is exactly
    the method of Verwimp et al. naive is a plain warm start."""
    initialization: Initialization = Auto()
    """The initial weights: auto, warm, shrink_perturb or fresh, or for comparison noise."""
    objective: Objective = NoPenalty()
    """The penalty added to the loss: none, l2, l2_init, or for comparison ewc, confidence_penalty, adversarial."""
    sampling: Sampling = Uniform()
    """The samples of an epoch: uniform, easy_hard or old_new."""
    schedule: Schedule = AutoSchedule()
    """The learning rate over time and the largest length of a run: auto, constant, inverse_time,
    cosine or multistep."""
    scratch_objective: Objective = NoPenalty()
    """The penalty added to scratch's loss. Verwimp et al. also compare with scratch + L2-init."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, document: Any) -> Any:
        """Take absent aspects from the preset. Do the same for absent fields of an aspect of the preset's kind."""
        if not isinstance(document, dict) or document.get("preset", "default") not in list(PRESETS):
            return document
        preset = PRESETS[document.get("preset", "default")]
        return document | {aspect: _merge_aspect(document.get(aspect), chosen) for aspect, chosen in preset.items()}


def _merge_aspect(given: Any, chosen: dict[str, Any]) -> Any:
    if given is None:
        return chosen
    if isinstance(given, dict) and given.get("name", chosen["name"]) == chosen["name"]:
        return chosen | given
    return given


def recipe_for(method: Method, recipe: Recipe) -> Recipe:
    """Return the method's recipe, given the task's recipe.

    `continuous` uses the task's recipe. `scratch` and `naive` have their own initialization and a full schedule.
    The full schedule is of the same kind as the task's schedule, or a cosine if the task's schedule has no fixed
    length.
    """
    match method:
        case "scratch":
            return _with_full_schedule(Fresh(), recipe.scratch_objective, recipe)
        case "naive":
            return _with_full_schedule(Warm(), NoPenalty(), recipe)
        case "continuous":
            return recipe


def _with_full_schedule(initialization: Initialization, objective: Objective, recipe: Recipe) -> Recipe:
    schedule = Cosine() if isinstance(recipe.schedule, OpenEnded) else recipe.schedule
    return Recipe(
        preset=recipe.preset,
        initialization=initialization,
        objective=objective,
        sampling=Uniform(),
        schedule=schedule.model_copy(update={"scale": 1.0, "escalation": ()}),
        scratch_objective=recipe.scratch_objective,
    )
