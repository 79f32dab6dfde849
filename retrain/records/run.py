"""The records of an ended run: curve, cost, result, evaluation, and decision."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from retrain.config import Metric
from retrain.records.base import Record

Outcome = Literal["reached", "plateau", "missed", "completed", "diverged"]


class Point(Record):
    """One evaluation of a run on val.

    `accuracy` is over `images` of val's samples. If they are fewer than all, the others could not have raised it to
    any level of interest.
    """

    iteration: int
    accuracy: float
    loss: float | None
    images: int
    train_loss: float | None
    """Mean since the previous point. None, like `loss`, if it is not finite."""
    train_accuracy: float | None = None
    """Accuracy on the augmented training batches since the previous point, by the weights at that time."""
    learning_rate: float
    score: float = Field(default_factory=lambda fields: fields["accuracy"])
    """Score by the plan's metric, on the same images."""
    standard_error: float | None = None
    """Standard error of `score`. None: the score is a share of `images`, so its error is binomial."""
    in_scope: float | None = None
    """Score within the target's scope. None where the target has none."""
    scope_among_all: float | None = None
    """Score on the scope's samples if later classes are possible as well. Its distance below `in_scope` is their
    cost."""
    newest: float | None = None
    """Score on the validation samples of the drops that the parent did not know. None where they have none."""


class Curve(Record):
    """A run's evaluations in the order of their iterations, `curve.jsonl`."""

    points: tuple[Point, ...] = ()


class Cost(Record):
    """Resources that a run used. Figures ending in `all_in` include evaluation, data and saving."""

    iterations: int
    samples: int
    evaluated_images: int
    flops: float
    flops_all_in: float
    device_seconds: float
    device_seconds_all_in: float
    measured_joules: float | None = None
    """Energy of the devices, all in, by NVML (GPUs) or RAPL (processors). None where nothing measured all of it."""


class Machine(Record):
    """The machine and the versions that made the figures."""

    retrain: str
    torch: str
    device: str
    threads: int
    processes: int = 1
    """Number of processes that trained together, each on such a device with that number of threads."""
    loader: Literal["device", "memory", "stream"] = "device"
    """Place of the decoded training samples."""


class Result(Record):
    """How a training ended, `result.json`: written last, it marks the run's other files as complete.

    `reached`: stopped at the target. `plateau`: stopped below its 95% confidence bound, since the run no longer
    improved. `missed`: schedule or budget ended below it. `completed`: there was no target. `diverged`: the loss was
    not finite.
    """

    outcome: Outcome
    iterations: int
    final_accuracy: float
    """On val, of the weights that the run ended with."""
    final_score: float = Field(default_factory=lambda fields: fields["final_accuracy"])
    """The same by the plan's metric: a_scratch, if this becomes the baseline."""
    in_scope: float | None = None
    """Score within the target's scope. None where the target has none."""
    best_accuracy: float
    """Highest accuracy on all of val."""
    best_score: float = Field(default_factory=lambda fields: fields["best_accuracy"])
    """Highest score on all of val."""
    train_accuracy: float | None = None
    """Of the delivered weights on training samples, without augmentation. With `final_accuracy` it tells how far the
    network has fitted its data."""
    normalised: bool | None = None
    """Whether the network has BatchNorm layers. None in records of earlier versions."""
    weight_scale: float | None = None
    """Root mean square of the weights in the layer where it is smallest. None in records of earlier versions."""
    reached_at: dict[Literal["99", "100"], int | None]
    """First iteration on the grid at 99 and 100 percent of the baseline's score (of this run's own final score, where
    it has no target): s(f, a), Verwimp et al., eq. 1."""
    speed_up: dict[Literal["99", "100"], float | None]
    """L_99 and L_100 against the baseline, Verwimp et al., eq. 2. None where not reached, and for a carried target."""
    model_digest: str | None
    """SHA-256 of model.safetensors. None for a diverged run, because it leaves no model."""
    index_digest: str | None
    """SHA-256 over the learning-speed counters of all drops, in order."""
    moments_digest: str | None = None
    """SHA-256 of moments.safetensors. None where the optimizer's state is not kept."""
    cost: Cost
    machine: Machine
    started_at: datetime
    ended_at: datetime


class Interval(Record):
    """A figure and its confidence interval."""

    value: float
    low: float
    high: float


class Comparison(Record):
    """Candidate against champion, both measured now on the same test samples."""

    champion: str
    champion_accuracy: float
    champion_score: float = Field(default_factory=lambda fields: fields["champion_accuracy"])
    difference: Interval
    """Confidence interval of the difference of the two scores."""
    negative_flips: float
    """Share of test samples that the champion had right and the candidate has wrong."""


class Evaluation(Record):
    """Accuracy and score on the held-out test split, `evaluation.json`.

    `old` and `new` are scores over the test samples of drops that the parent knew and did not. None where there are
    none.
    """

    samples: int
    accuracy: float
    metric: Metric = "accuracy"
    score: float = Field(default_factory=lambda fields: fields["accuracy"])
    """By that metric."""
    old: float | None
    new: float | None
    by_class: dict[str, float]
    """Accuracy on the images of each class."""
    comparison: Comparison | None


class Decision(Record):
    """The gate's decision, with a sentence for every condition that failed."""

    promoted: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """Conditions that the test split was too small to decide, with the number of images that would be enough."""
