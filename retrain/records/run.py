"""The records of an ended run: curve, cost, result, evaluation, and decision."""

from collections.abc import Iterator
from typing import Literal

from pydantic import AwareDatetime, Field

from retrain.config import Metric
from retrain.records.base import Record
from retrain.utils.text import name_some, pluralize

Outcome = Literal["reached", "plateau", "missed", "completed", "diverged"]


class Point(Record):
    """One evaluation of a run on val.

    `accuracy` is the accuracy on the first `images` samples of val. If these are not all samples, the evaluation
    stopped early, because it was unlikely to reach the needed accuracy.
    """

    iteration: int
    accuracy: float
    loss: float | None
    images: int
    train_loss: float | None
    """Mean training loss since the previous point. None, like `loss`, if it is not finite."""
    train_accuracy: float | None = None
    """Accuracy on the augmented training batches since the previous point, by the weights at that time."""
    learning_rate: float
    score: float = Field(default_factory=lambda fields: fields["accuracy"])
    """Score by the plan's metric, on the same images."""
    standard_error: float | None = None
    """Standard error of `score`. None if the score is a share of the images. Its error is then binomial."""
    in_scope: float | None = None
    """Score within the target's scope. None if the target has no scope."""
    scope_among_all: float | None = None
    """Score on the scope's samples if the network chooses among all classes. For `in_scope`, it chooses only among the
    scope's classes. The difference is the decrease of the score by the classes that were added later."""
    newest: float | None = None
    """Score on the validation samples of the drops that the parent was not trained on. None if there are no such
    samples."""


class Curve(Record):
    """A run's evaluations in the order of their iterations, `curve.jsonl`."""

    points: tuple[Point, ...] = ()


class Cost(Record):
    """Resources that a run used. Fields ending in `all_in` also count evaluating, loading data and saving."""

    iterations: int
    samples: int
    evaluated_images: int
    flops: float
    flops_all_in: float
    device_seconds: float
    device_seconds_all_in: float
    measured_joules: float | None = None
    """Energy of the devices, measured by NVML (GPUs) or RAPL (processors). It includes evaluating, loading data and
    saving. None if a part was not measured."""


class Machine(Record):
    """The machine and the software versions of a run."""

    retrain: str
    torch: str
    device: str
    threads: int
    processes: int = 1
    """Number of processes that trained together, each on one `device` with this number of `threads`."""
    loader: Literal["device", "memory", "stream"] = "device"
    """Place of the decoded training samples."""


class Result(Record):
    """The result of a training, `result.json`. It is written last, and marks the run's other files as complete.

    The outcome is `reached` if the run stopped at the target. It is `plateau` if the run no longer improved and was
    stopped below the target's 95% confidence bound. It is `missed` if the schedule or the budget ended before the
    target was reached. It is `completed` without a target, and `diverged` if the loss was not finite.
    """

    outcome: Outcome
    iterations: int
    final_accuracy: float
    """Accuracy of the final weights on val."""
    final_score: float = Field(default_factory=lambda fields: fields["final_accuracy"])
    """Score of the final weights on val, by the plan's metric. It is a_scratch if this run becomes the baseline."""
    in_scope: float | None = None
    """Score within the target's scope. None if the target has no scope."""
    best_accuracy: float
    """Highest accuracy on all of val."""
    best_score: float = Field(default_factory=lambda fields: fields["best_accuracy"])
    """Highest score on all of val."""
    train_accuracy: float | None = None
    """Accuracy of the saved weights on training samples, without augmentation. Compared with `final_accuracy`, it shows
    how far the network has fitted its data."""
    normalised: bool | None = None
    """Whether the network has BatchNorm layers. None in records of earlier versions."""
    weight_scale: float | None = None
    """The smallest root mean square of the weights of any layer. None in records of earlier versions."""
    output_change: float | None = None
    """The relative change of a perceptron's outputs if all weights change by one. None for other networks, and in
    records of earlier versions."""
    reached_at: dict[Literal["99", "100"], int | None]
    """s(f, a) of Verwimp et al., eq. 1: the iteration of the first evaluation at 99 and at 100 percent of the
    baseline's score. If the run has no target, its own final score replaces the baseline's."""
    speed_up: dict[Literal["99", "100"], float | None]
    """Speed-ups L_99 and L_100 over the baseline (Verwimp et al., eq. 2). None if the score was not reached, or if the
    target is carried (`plan.Target`)."""
    model_digest: str | None
    """SHA-256 of model.safetensors. None for a diverged run, because it leaves no model."""
    index_digest: str | None
    """SHA-256 over the learning-speed counters of all drops, in order."""
    moments_digest: str | None = None
    """SHA-256 of moments.safetensors. None if the optimizer's state is not kept."""
    cost: Cost
    machine: Machine
    started_at: AwareDatetime
    ended_at: AwareDatetime


class Interval(Record):
    """A value and its confidence interval."""

    value: float
    low: float
    high: float


class Comparison(Record):
    """A comparison of the candidate with the champion. Both were evaluated on the same test samples."""

    champion: str
    champion_accuracy: float
    champion_score: float = Field(default_factory=lambda fields: fields["champion_accuracy"])
    difference: Interval
    """The candidate's score minus the champion's, with its confidence interval."""
    negative_flips: float
    """Share of test samples that the champion classifies correctly and the candidate does not."""


FAR_LOWER = 0.05
"""Difference of the scores on earlier and on new drops from which a summary names it."""

CLEAR_ERRORS = 2.0
"""The same difference in standard errors. With few test images, a smaller difference may be chance."""


class Evaluation(Record):
    """Accuracy and score on the held-out test split, `evaluation.json`.

    `old` is the score on the test samples of drops that the parent was trained on. `new` is the score on the test
    samples of the other drops. A score is None if there are no such samples.
    """

    samples: int
    accuracy: float
    metric: Metric = "accuracy"
    score: float = Field(default_factory=lambda fields: fields["accuracy"])
    """Score by `metric`."""
    old: float | None
    new: float | None
    gap_error: float = 0.0
    """Standard error of `old - new`. 0 if one of them is None, and in records of earlier versions."""
    by_class: dict[str, float]
    """Accuracy on the images of each class."""
    comparison: Comparison | None

    @property
    def gap(self) -> float:
        """Return how much lower the score is on new drops than on old ones. 0 if one of them is None."""
        return 0.0 if self.old is None or self.new is None else self.old - self.new

    def weaknesses(self, scratch_is_known: bool) -> Iterator[tuple[str, str]]:
        """Yield weaknesses that the score on all images hides, each as a name and a sentence.

        They are classes without any correctly classified test image, and new drops on which the score is far lower.
        `scratch_is_known` is whether scratch was trained on the same drops. If it was not, the second sentence advises
        it.
        """
        if missed := [name for name, accuracy in self.by_class.items() if accuracy == 0]:
            yield (
                "missed classes",
                f"no test image of {pluralize(len(missed), 'class')} is classified correctly: {name_some(missed)}; "
                "gate.min_class_accuracy refuses such a model",
            )
        if self.gap >= max(FAR_LOWER, CLEAR_ERRORS * self.gap_error):
            error = f" (standard error {100 * self.gap_error:.1f})" if self.gap_error else ""
            advice = (
                ". A target that was measured on earlier drops does not cover them, so scratch may be better on them: "
                "`retrain baseline` trains it for comparison"
            )
            lower = f"the score is {100 * self.gap:.1f} points{error} lower on new drops than on earlier ones"
            yield "weak on new drops", lower + ("" if scratch_is_known else advice)


class Decision(Record):
    """The gate's decision, with a sentence for every condition that failed."""

    promoted: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """Conditions that could not be decided because the test split is too small. Each note states how many images would
    be enough."""
