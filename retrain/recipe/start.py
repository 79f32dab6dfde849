"""Choose where a run's weights start by what the parent is: shrunk, or as they are. Pure functions without torch."""

from retrain.config.recipe import Auto, ShrinkPerturb, Warm

FITTED_RATIO = 0.6
"""Training error over validation error up to which a parent counts as fitted: 1 for a network that has memorised
nothing, 0 for one that has memorised its training set."""

LEAST_ERROR = 1e-6
"""Least validation error that the ratio is taken of, so that a perfect parent divides by no zero."""


def resolve_start(
    setting: Auto, normalised: bool, train_accuracy: float | None, val_accuracy: float | None
) -> tuple[Warm | ShrinkPerturb, str]:
    """Return the initialization that `auto` stands for, and the reason in a sentence.

    `normalised` says whether the network has normalisation layers. Accuracies are the parent's on its own data, in
    [0, 1], the one on training samples measured without augmentation; None where they are unknown.
    """
    warm = Warm(head_rows=setting.head_rows)
    shrunk = ShrinkPerturb(alpha=setting.alpha, beta=setting.beta, new_rows=setting.head_rows)
    if not normalised:
        return (
            warm,
            "The parent's weights are kept: without normalisation layers, shrinking would destroy its function.",
        )
    if train_accuracy is None or val_accuracy is None:
        return shrunk, "The parent's weights are shrunk: its training accuracy is unknown, so it is taken as fitted."
    ratio = (1 - train_accuracy) / max(1 - val_accuracy, LEAST_ERROR)
    if ratio > FITTED_RATIO:
        return (
            warm,
            f"The parent's weights are kept: it is under-fitted, with a training error {_of_validation(ratio)}.",
        )
    return shrunk, f"The parent's weights are shrunk: it is fitted, with a training error {_of_validation(ratio)}."


def _of_validation(ratio: float) -> str:
    return f"{ratio:.2f} times its validation error"
