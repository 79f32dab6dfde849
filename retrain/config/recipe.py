"""The settings of the four aspects of a method (Verwimp et al., section 3), as a task's `recipe:` states them.

Each field is described under the field; the descriptions become those of `retrain task schema`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from retrain.config import Method
from retrain.config.fields import ConfigModel, Share


class Fresh(ConfigModel):
    """A newly initialised network: what training from scratch starts from."""

    name: Literal["fresh"] = "fresh"


class Warm(ConfigModel):
    """The parent's parameters and buffers as they are: the naive warm start."""

    name: Literal["warm"] = "warm"
    head_first: Share = 0.0
    """The share of the schedule in which only the last layer is trained (1: all of it), for comparison."""


class ShrinkPerturb(ConfigModel):
    """Shrink-and-perturb: alpha * old + beta * fresh (Verwimp et al., eq. 4)."""

    name: Literal["shrink_perturb"] = "shrink_perturb"
    alpha: Share = 0.4
    """Weight of the parent's parameters."""
    beta: Share = 0.001
    """Weight of the newly initialised network."""
    buffers: Literal["fresh", "old"] = "fresh"
    """Whether BatchNorm's running statistics start afresh or as the parent left them."""
    new_rows: Literal["fresh", "perturbed"] = "fresh"
    """Rows of the head for classes the parent never saw: newly initialised, or only beta times that."""


Initialization = Annotated[Fresh | Warm | ShrinkPerturb, Field(discriminator="name")]


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
    """c: the share of old samples called easy, and the share called hard."""
    probability: Share = 0.1
    """r: the probability with which an easy or hard old sample appears in a pass."""


class OldNew(ConfigModel):
    """Half of each pass old samples, half new ones (Verwimp et al., section 3.3, the comparison)."""

    name: Literal["old_new"] = "old_new"
    new: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The share of new samples in a pass."""


Sampling = Annotated[Uniform | EasyHard | OldNew, Field(discriminator="name")]

Scale = Literal["auto"] | PositiveFloat


class Cosine(ConfigModel):
    """Half a cosine from the learning rate down to zero (Verwimp et al., section 3.4)."""

    name: Literal["cosine"] = "cosine"
    scale: Scale = "auto"
    """Length as a multiple of scratch's; auto chooses by the share of new data: 0.25 below a half, else 0.5."""


class MultiStep(ConfigModel):
    """The learning rate falls by a factor at each milestone."""

    name: Literal["multistep"] = "multistep"
    scale: Scale = "auto"
    """Length as a multiple of scratch's; auto chooses by the share of new data: 0.25 below a half, else 0.5."""
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75)
    """Where the rate falls, as shares of the schedule."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """What it is multiplied by there."""


Schedule = Annotated[Cosine | MultiStep, Field(discriminator="name")]


class Recipe(ConfigModel):
    """What the continuous method does in each of the four aspects."""

    initialization: Initialization = ShrinkPerturb()
    """Where the weights start: fresh, warm or shrink_perturb."""
    objective: Objective = L2Init()
    """What is minimised besides the loss: none, l2, l2_init, or for comparison ewc, confidence_penalty, adversarial."""
    sampling: Sampling = EasyHard()
    """Which samples a pass holds: uniform, easy_hard or old_new."""
    schedule: Schedule = Cosine()
    """How the learning rate falls: cosine or multistep, and how much sooner than scratch's."""


def recipe_for(method: Method, recipe: Recipe) -> Recipe:
    """Return the method's recipe, given the task's own.

    `scratch` and `naive` change nothing but where the weights start, and run the task's kind of schedule at full
    length; `continuous` is the task's recipe.
    """
    match method:
        case "scratch":
            return _plain(Fresh(), recipe)
        case "naive":
            return _plain(Warm(), recipe)
        case "continuous":
            return recipe


def _plain(initialization: Initialization, recipe: Recipe) -> Recipe:
    return Recipe(
        initialization=initialization,
        objective=NoPenalty(),
        sampling=Uniform(),
        schedule=recipe.schedule.model_copy(update={"scale": 1.0}),
    )
