"""The settings of the four aspects of a method (Verwimp et al., section 3), as a task's `recipe:` states them.

Each field is described under the field; the descriptions become those of `retrain task schema`."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from retrain.config import Method
from retrain.config.fields import ConfigModel, IdentityIfSet, Share


class Fresh(ConfigModel):
    """A newly initialised network: what training from scratch starts from."""

    name: Literal["fresh"] = "fresh"
    scale: Annotated[PositiveFloat, IdentityIfSet] = 1.0
    """Factor on all of its weights: what shrinking does to a network that was never trained, for comparison."""


HeadRows = Literal["fresh", "class_means"]
"""How rows of the head for classes that the parent never saw begin."""


class Auto(ConfigModel):
    """Warm or shrink-and-perturb, by what the parent is; the plan says which and why."""

    name: Literal["auto"] = "auto"
    alpha: Share = 0.4
    """Weight of the parent's parameters, where they are shrunk."""
    beta: Share = 0.001
    """Weight of the newly initialised network, where the parent's parameters are shrunk."""
    head_rows: HeadRows = "class_means"
    """Rows of the head for new classes: newly initialised, or the class means of the parent's features."""


class Warm(ConfigModel):
    """The parent's parameters and buffers as they are: the naive warm start."""

    name: Literal["warm"] = "warm"
    head_first: Share = 0.0
    """The share of the schedule in which only the last layer is trained (1: all of it), for comparison."""
    head_rows: HeadRows = "fresh"
    """Rows of the head for new classes: newly initialised, or the class means of the parent's features."""


class ShrinkPerturb(ConfigModel):
    """Shrink-and-perturb: alpha * old + beta * fresh (Verwimp et al., eq. 4)."""

    name: Literal["shrink_perturb"] = "shrink_perturb"
    alpha: Share = 0.4
    """Weight of the parent's parameters."""
    beta: Share = 0.001
    """Weight of the newly initialised network."""
    buffers: Literal["fresh", "old"] = "fresh"
    """Whether BatchNorm's running statistics start afresh or as the parent left them."""
    rate: PositiveFloat = 1.0
    """Factor on the learning rate, beside weights that are shrunk less than the step could be large."""
    least_norm: Share = 0.0
    """Least norm of all shrunk parameters together, as a share of a new network's: the parent is shrunk less, or not at
    all, where it is already small. 0: always by alpha, so that runs in a row shrink it again and again."""
    new_rows: Literal["fresh", "perturbed", "class_means"] = "fresh"
    """Rows of the head for classes the parent never saw: newly initialised, beta times that, or the class means of the
    parent's features."""


class GaussianNoise(ConfigModel):
    """The parent's parameters plus Gaussian noise (Ash & Adams, section 3.7), for comparison."""

    name: Literal["noise"] = "noise"
    deviation: NonNegativeFloat = 0.01
    """Standard deviation of the noise."""


Initialization = Annotated[Fresh | Auto | Warm | ShrinkPerturb | GaussianNoise, Field(discriminator="name")]


class NoPenalty(ConfigModel):
    """The loss alone."""

    name: Literal["none"] = "none"


class L2(ConfigModel):
    """loss + strength * ||theta||^2."""

    name: Literal["l2"] = "l2"
    strength: Annotated[float, Field(ge=0)] = 0.01
    """Lambda."""


class L2Init(ConfigModel):
    """loss + strength * ||theta - anchor||^2 (Verwimp et al., eq. 5)."""

    name: Literal["l2_init"] = "l2_init"
    strength: Annotated[float, Field(ge=0)] = 0.01
    """Lambda."""
    anchor: Literal["origin", "fresh", "start"] = "start"
    """theta_0: the very first initialization of the lineage, this run's fresh network, or where it starts, which did
    best in docs/evidence/cifar100-mini.md."""


class Ewc(ConfigModel):
    """Elastic weight consolidation: loss + strength/2 * sum of F * (theta - start)^2, for comparison."""

    name: Literal["ewc"] = "ewc"
    strength: Annotated[float, Field(ge=0)] = 100.0
    """Lambda."""
    samples: PositiveInt = 1000
    """How many old samples the Fisher information F is measured on."""


class ConfidencePenalty(ConfigModel):
    """loss - strength * the entropy of the predictions, for comparison."""

    name: Literal["confidence_penalty"] = "confidence_penalty"
    strength: Annotated[float, Field(ge=0)] = 0.1
    """Beta."""


class Adversarial(ConfigModel):
    """The mean of the losses on the images and on their adversaries by the fast gradient sign, for comparison."""

    name: Literal["adversarial"] = "adversarial"
    epsilon: Annotated[float, Field(ge=0)] = 0.1
    """How far each pixel is moved, in units of normalised pixels."""


Objective = Annotated[NoPenalty | L2 | L2Init | Ewc | ConfidencePenalty | Adversarial, Field(discriminator="name")]


class Uniform(ConfigModel):
    """Every sample once in each pass."""

    name: Literal["uniform"] = "uniform"


class EasyHard(ConfigModel):
    """The easiest and the hardest old samples seldom, all others once in each pass (Verwimp et al., section 3.3)."""

    name: Literal["easy_hard"] = "easy_hard"
    share: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """The share of old samples called easy, and the share called hard: half of the paper's c, which counts both."""
    probability: Share = 0.1
    """r: the probability with which an easy or hard old sample appears in a pass."""


class OldNew(ConfigModel):
    """Half of each pass old samples, half new ones (Verwimp et al., section 3.3, the comparison)."""

    name: Literal["old_new"] = "old_new"
    new: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The share of new samples in a pass."""


Sampling = Annotated[Uniform | EasyHard | OldNew, Field(discriminator="name")]

Scale = Literal["auto"] | PositiveFloat


class Constant(ConfigModel):
    """The learning rate stays where it is after a warm-up: no length to guess."""

    name: Literal["constant"] = "constant"
    scale: PositiveFloat = 1.0
    """Most iterations of a run, as a multiple of scratch's schedule: the budget of a run that misses its target."""
    warmup: NonNegativeInt = 10
    """Iterations over which the learning rate rises in equal steps."""


class Cosine(ConfigModel):
    """Half a cosine from the learning rate down (Verwimp et al., section 3.4)."""

    name: Literal["cosine"] = "cosine"
    scale: Scale = "auto"
    """Length as a multiple of scratch's; auto chooses by the share of new data: 0.25 below a half, else 0.5."""
    final_rate: NonNegativeFloat = 0.0
    """Learning rate at the end of the schedule (Verwimp et al., A.2: 1e-6)."""
    escalation: tuple[PositiveFloat, ...] = ()
    """Longer schedules, as multiples of scratch's, that are tried one after another when the target was missed."""


class MultiStep(ConfigModel):
    """The learning rate falls by a factor at each milestone."""

    name: Literal["multistep"] = "multistep"
    scale: Scale = "auto"
    """Length as a multiple of scratch's; auto chooses by the share of new data: 0.25 below a half, else 0.5."""
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75)
    """Where the rate falls, as shares of the schedule."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """What it is multiplied by there."""
    escalation: tuple[PositiveFloat, ...] = ()
    """Longer schedules, as multiples of scratch's, that are tried one after another when the target was missed."""


Schedule = Annotated[Constant | Cosine | MultiStep, Field(discriminator="name")]


Preset = Literal["default", "paper", "naive"]

PRESETS: dict[Preset, dict[str, dict[str, Any]]] = {
    "default": {
        "initialization": {"name": "auto"},
        "objective": {"name": "none"},
        "sampling": {"name": "uniform"},
        "schedule": {"name": "constant"},
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
"""What each preset chooses in the four aspects. `paper` is Verwimp et al. to the letter (sections 3.1 to 3.4, A.2)."""


class Recipe(ConfigModel):
    """What the continuous method does in each of the four aspects. A preset fills in what is left out."""

    preset: Preset = "default"
    """default: averaged weights, no schedule to guess; paper: Verwimp et al. to the letter; naive: the plain warm
    start."""
    initialization: Initialization = Auto()
    """Where the weights start: auto, warm, shrink_perturb or fresh; noise for comparison."""
    objective: Objective = NoPenalty()
    """What is minimised besides the loss: none, l2, l2_init, or for comparison ewc, confidence_penalty, adversarial."""
    sampling: Sampling = Uniform()
    """Which samples an epoch holds: uniform, easy_hard or old_new."""
    schedule: Schedule = Constant()
    """How the learning rate changes, and how long a run may be: constant, cosine or multistep."""
    scratch_objective: Objective = NoPenalty()
    """What scratch minimises besides the loss; Verwimp et al. compare with scratch + L2-init too."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, document: Any) -> Any:
        """Take from the preset each aspect that is absent, and what an aspect of the preset's own kind leaves out."""
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
    """Return the method's recipe, given the task's own.

    `continuous` is the task's recipe. `scratch` and `naive` change where the weights start, and run a whole schedule of
    the task's kind; where that has no length, a cosine.
    """
    match method:
        case "scratch":
            return _whole_schedule(Fresh(), recipe.scratch_objective, recipe)
        case "naive":
            return _whole_schedule(Warm(), NoPenalty(), recipe)
        case "continuous":
            return recipe


def _whole_schedule(initialization: Initialization, objective: Objective, recipe: Recipe) -> Recipe:
    schedule = Cosine() if isinstance(recipe.schedule, Constant) else recipe.schedule
    return Recipe(
        preset=recipe.preset,
        initialization=initialization,
        objective=objective,
        sampling=Uniform(),
        schedule=schedule.model_copy(update={"scale": 1.0, "escalation": ()}),
        scratch_objective=recipe.scratch_objective,
    )
