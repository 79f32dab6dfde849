"""Compute the target and the stop rule of a run, and the iterations of training from scratch.

These are pure functions over records.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import NamedTuple

from retrain.config import METRIC_NAMES, Metric
from retrain.config.recipe import OpenEnded, Recipe
from retrain.config.task import Target as TargetSetting
from retrain.config.task import Task
from retrain.records import (
    AccuracyEstimate,
    Curve,
    Dataset,
    Drop,
    Result,
    RunRecord,
    Scope,
    ScratchEstimate,
    StopRule,
    Target,
)

EARLIEST_SHARE = 0.75
"""Share of the iterations of the task's fastest earlier retraining. Before this share, no run is expected to be at its
target."""

TYPICAL_SHARE, TYPICAL_ERROR = 0.62, 0.19
"""Share of scratch's schedule after which scratch first has its final accuracy, and the standard deviation of this
share. Both come from eight experiments (data sets of 10 to 100 classes), in which the share was 0.4 to 1."""

PRIOR_SPREAD = 0.3
"""Assumed standard deviation of the share in `TYPICAL_SHARE` between scratch runs of one task, relative to the share.
This assumption counts as one more run. In trials with 250 validation images, the shares of runs with different seeds
differed by 4 to 65%. With more validation images, they differed less."""


IMAGES_EXPONENT, IMAGES_EXPONENT_ERROR = 0.14, 0.12
"""Exponent with which scratch's error falls with the number of images per class, and its standard deviation between
tasks. The exponent was 0.02 to 0.46 on photographs and clothes, and about 0 if the new images are from another domain.
On drawn letters it was 2.7, so the estimate is rough."""

CONFIDENCE_95 = 1.645
"""Number of standard errors between a value and the bound of its one-sided 95% confidence interval."""

SAME_IMAGES = 1.05
"""The number of images per class counts as unchanged if it has grown by this factor or less."""


class ScratchRun(NamedTuple):
    """A scratch run that can give a target, because its iterations are comparable with the task's iterations."""

    record: RunRecord
    result: Result
    curve: Curve
    dataset: Dataset

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the classes of the run's dataset, in order."""
        return self.dataset.classes

    @property
    def s_scratch(self) -> int:
        """Return the iterations after which the run first reached its final score (Verwimp et al., eq. 1)."""
        return self.result.reached_at["100"] or self.result.iterations

    @property
    def val_samples(self) -> int:
        """Return the number of the run's validation samples."""
        return self.curve.points[-1].images if self.curve.points else 0

    @property
    def standard_error(self) -> float:
        """Return the standard error of the run's final score."""
        measured = self.curve.points[-1].standard_error if self.curve.points else None
        return standard_error(self.result.final_score, self.val_samples) if measured is None else measured


def make_target(level: float, dataset: Dataset, baseline: ScratchRun, records: Mapping[str, RunRecord]) -> Target:
    """Return the target: level/100 of the baseline's score, on its samples and classes (Verwimp et al., eqs. 1, 2)."""
    is_measured = baseline.record.dataset_digest == dataset.digest
    return Target(
        level=level,
        accuracy=level / 100 * baseline.result.final_score,
        baseline_run=baseline.record.run_id,
        baseline_accuracy=baseline.result.final_score,
        baseline_iterations=baseline.s_scratch,
        baseline_reached_at=baseline.result.reached_at,
        provenance="measured" if is_measured else "carried",
        age=age_of(dataset, baseline),
        scope=None if is_measured else scope_of(dataset, baseline),
        standard_error=baseline.standard_error,
        expected=None if is_measured else expect_accuracy(dataset, baseline),
        expected_from=round(EARLIEST_SHARE * _earliest(records.values(), baseline.record.metric) * baseline.s_scratch),
    )


def make_stop_rule(
    task: Task,
    recipe: Recipe,
    target: Target | None,
    scratch: ScratchEstimate | None,
    evaluate_every: int,
    missing_fit: float,
    baseline: ScratchRun | None,
) -> StopRule | None:
    """Return a run's stop rule. None if the run ends at its first evaluation at the target, or with its schedule.

    `missing_fit` is the parent's (see `StopRule.of`). A schedule without an end needs the rule. A carried target needs
    the rule because the target does not cover the new drops. A run whose schedule has an end is never stopped below its
    target, because accuracy rises most at the end.
    """
    has_no_end = isinstance(recipe.schedule, OpenEnded)
    if target is None or scratch is None or not (has_no_end or target.scope):
        return None
    tolerance = plateau_tolerance(target, baseline.val_samples) if baseline else 0.0
    rule = StopRule.of(task.training.stopping, scratch.iterations, evaluate_every, missing_fit, tolerance)
    return rule if has_no_end else rule.model_copy(update={"patience": None, "improve_until": None})


def plateau_tolerance(target: Target, samples: int) -> float:
    """Return how far below its target a run that has stopped improving may be to count as having reached it.

    The target was measured on `samples` samples. The tolerance is the distance to the lower bound of the target's
    one-sided 95% confidence interval. For a target of 100%, the standard error is computed as if there were two more
    samples, one of them classified wrongly. In 4 trials with 66 to 360 validation samples, runs ended in this way. On
    average, the test accuracy of their models was 0.4 points below scratch's.
    """
    return CONFIDENCE_95 * max(target.standard_error, standard_error(1 / (samples + 2), samples))


def expect_accuracy(dataset: Dataset, baseline: ScratchRun) -> AccuracyEstimate | None:
    """Return the accuracy that scratch would have on the baseline's samples and classes, if trained on this dataset.

    Scratch's error falls with the number of images per class. The standard error of the estimate combines the standard
    errors of the measured accuracy and of the exponent. Returns None if the dataset has none of the baseline's drops.
    Also returns None for metrics other than accuracy, because the exponent was not measured for them.
    """
    if baseline.record.metric != "accuracy":
        return None
    baseline_drops = set(baseline.record.drops)
    seen = sum(drop.samples for drop in dataset.drops if drop.id in baseline_drops)
    error = 1 - baseline.result.final_accuracy
    classes = len(dataset.classes) / len(baseline.classes)
    if not seen or not error:
        return None
    images = max(1.0, dataset.samples / seen / classes)
    expected = error / images**IMAGES_EXPONENT
    measured = standard_error(error, baseline.val_samples) / error
    spread = math.hypot(measured, IMAGES_EXPONENT_ERROR * math.log(images))
    return AccuracyEstimate(
        accuracy=max(0.0, 1 - expected), standard_error=expected * spread, is_rough=images > SAME_IMAGES
    )


TOP_CLASSES: dict[Metric, int] = {"accuracy": 1, "top5_accuracy": 5}
"""Metrics that are shares of correct samples. A sample is correct if its label is among this number of most likely
classes."""


def chance_level(drops: Iterable[Drop], classes: int, metric: Metric = "accuracy") -> float:
    """Return the score of guessing without images, on the drops' validation samples.

    The guess is always the most common class or classes. For macro F1, the result is the higher of two scores: of this
    guess, and of random guesses. Random guesses score higher if classes are about equally common.
    """
    counts: Counter[str] = Counter()
    for drop in drops:
        counts.update(drop.counts.get("val", {}))
    shares = [count / counts.total() for _, count in counts.most_common() if count] or [1 / classes] * classes
    if metric in TOP_CLASSES:
        return min(1.0, sum(shares[: TOP_CLASSES[metric]]))
    if metric == "balanced_accuracy":
        return 1 / len(shares)
    most_common = 2 * shares[0] / (1 + shares[0]) / len(shares)
    return max(most_common, mean(2 * share / (1 + len(shares) * share) for share in shares))


def why_no_target(
    setting: TargetSetting, dataset: Dataset, drops: Sequence[Drop], baseline: ScratchRun | None
) -> str | None:
    """Return the reason why a dataset of these drops has no target, or None if it has one."""
    if baseline is None:
        by = "" if setting.metric == "accuracy" else f" by {METRIC_NAMES[setting.metric]}"
        return f"no scratch run with this network and these training settings has measured a baseline{by}"
    if why := why_near_chance(setting, baseline, drops):
        return why
    if baseline.record.dataset_digest == dataset.digest:
        return None
    own = [drop for drop in drops if drop.id in baseline.record.drops]
    if not own:
        return f"none of the drops that {baseline.record.run_id} was measured on is still in the store"
    if not any(drop.samples("val") for drop in own):
        return f"no validation image of the drops that {baseline.record.run_id} was measured on is left"
    return None


def why_near_chance(setting: TargetSetting, baseline: ScratchRun, drops: Iterable[Drop]) -> str | None:
    """Return a sentence if a baseline's target is at most one standard error above the chance level, or None.

    Such a target would end a run that has learnt nothing. Of `drops`, only the baseline's drops are used.
    """
    own = [drop for drop in drops if drop.id in baseline.record.drops]
    metric, chance = setting.metric, chance_level(own, len(baseline.classes), setting.metric)
    is_share = metric in TOP_CLASSES
    bound = chance + (standard_error(chance, baseline.val_samples) if is_share else baseline.standard_error)
    accuracy = setting.level / 100 * baseline.result.final_score
    if accuracy > bound:
        return None
    guess = (
        "always predicting the most common class" if metric == "accuracy" else f"the {METRIC_NAMES[metric]} of guessing"
    )
    return (
        f"target {accuracy:.2%} from {baseline.record.run_id} is no better than {guess} "
        f"({chance:.2%}, standard error {bound - chance:.2%})"
    )


def scope_of(dataset: Dataset, baseline: ScratchRun) -> Scope:
    """Return the part of a later dataset that the target applies to.

    It has the baseline's drops, and the classes up to the last class of the baseline.
    """
    own = set(baseline.record.drops)
    places = [place for place, name in enumerate(dataset.classes, start=1) if name in baseline.classes]
    return Scope(drops=tuple(drop.id for drop in dataset.drops if drop.id in own), classes=max(places, default=0))


def standard_error(accuracy: float, samples: int) -> float:
    """Return the standard error of an accuracy on a number of samples (binomial)."""
    return math.sqrt(accuracy * (1 - accuracy) / samples) if samples else 0.0


def estimate_scratch(schedule: int, dataset: Dataset, scratch_runs: Sequence[ScratchRun]) -> ScratchEstimate:
    """Return the iterations after which scratch first reaches its final accuracy on a dataset (s_scratch).

    `schedule` is the length of scratch's full schedule on the dataset, in iterations. If scratch was already trained on
    this dataset, s_scratch was measured. Otherwise, it is estimated as `schedule` times a mean share. The mean is over
    the task's scratch runs, and the share is s_scratch of a run divided by the length of its schedule. `TYPICAL_SHARE`
    with its spread of `PRIOR_SPREAD` counts as one more run. The reason is that on a small validation split the first
    evaluation at the final accuracy is partly luck.
    """
    if same := [run for run in scratch_runs if run.record.dataset_digest == dataset.digest]:
        return ScratchEstimate(
            iterations=mean(run.s_scratch for run in same),
            schedule=schedule,
            standard_error=0.0,
            provenance="measured",
            runs=len(same),
        )
    share, spread = TYPICAL_SHARE, TYPICAL_ERROR
    if shares := [run.s_scratch / run.result.iterations for run in scratch_runs]:
        share = mean([TYPICAL_SHARE, *shares])
        squares = sum((each - share) ** 2 for each in shares)
        spread = math.sqrt(((PRIOR_SPREAD * share) ** 2 + squares) / len(shares))
    return ScratchEstimate(
        iterations=round(share * schedule, 1),
        schedule=schedule,
        standard_error=round(spread * schedule, 1),
        provenance="estimated",
        runs=len(shares),
    )


def age_of(dataset: Dataset, baseline: ScratchRun) -> int:
    """Return the number of a dataset's drops that the baseline was not trained on."""
    return len({drop.id for drop in dataset.drops} - set(baseline.record.drops))


def _earliest(records: Iterable[RunRecord], metric: Metric) -> float:
    """Return the smallest share of s_scratch after which a retraining of this task reached 99 percent of its target.

    Returns 0 if no retraining has reached its target.
    """
    shares = (
        (record.result.reached_at["99"] or record.result.iterations) / record.target.baseline_iterations
        for record in records
        if record.outcome == "reached" and record.purpose == "retrain" and record.result and record.target
        if record.metric == metric
    )
    return min(shares, default=0.0)
