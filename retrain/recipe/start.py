"""Choose how much a run shrinks its parent's weights, from the parent's properties. Pure functions without torch."""

from retrain.config.recipe import Auto, ShrinkPerturb, Warm

FITTED_RATIO, UNFITTED_RATIO = 0.2, 0.6
"""Ratios of the training error to the validation error. Up to the first ratio, a parent counts as fitted. From the
second ratio on, it counts as under-fitted. The ratio is 0 if a network has memorized its training set, and 1 if it has
memorized nothing."""

LEARNT = 0.98
"""Training accuracy from which a parent counts as fitted, whatever its validation error is."""

GENTLE_ALPHA = 0.8
"""Smallest factor on the parent's parameters in a network without BatchNorm. Shrinking them more would lower the
accuracy there. It is also the factor for an under-fitted parent in two cases: its relative step is unknown, or its
network has pretrained weights."""

STEP = 0.06
"""Size of a step relative to the weights, in the layer with the smallest weights. The learning rate of a network
without BatchNorm is set so that its steps have this size, unless it is a perceptron. In trials, perceptrons on 28x28
pixels have a relative step of 0.06 to 0.07 without a factor on the learning rate. With a factor of 2.5 they ended 5 to
10 points lower than without, and with 0.5 about as high. Other networks have a relative step of 0.015 to 0.035, and
gained from a factor of 1.5 or 2.5."""

LARGE_STEP = 0.04
"""Relative step, without a factor on the learning rate, from which the learning rate falls during a run. In trials,
perceptrons with a relative step of 0.06 never reached scratch's accuracy at a constant rate. Networks with 0.015 to
0.035 gained nothing from a falling rate."""

RAISED_RATE, LOWERED_RATE = 2.5, 0.25
"""Largest and smallest factor on the learning rate. Shrinking to 0.4 makes the relative step 2.5 times as large."""

OUTPUT_STEP, PERCEPTRON_RATE = 3.5, 8.0
"""Relative change of a perceptron's outputs by a step, and the largest factor on its learning rate. The rate is set so
that steps have this size. It is therefore higher if a perceptron has fewer inputs. In trials with Adam at 0.001,
perceptrons on 8x8 pixels (0.5 without a factor) learnt fastest with factors of 5 to 15, on 16x16 pixels (0.8 to 1) with
2.5 to 5, and on 28x28 pixels (3.3) with 0.5 to 1. The trials are listed in docs/evidence/regimes.md."""

LEAST_ERROR = 1e-6
"""Smallest validation error in the ratio of the errors. It prevents a division by zero for a parent without errors."""


def resolve_initialization(
    setting: Auto,
    normalized: bool,
    train_accuracy: float | None,
    val_accuracy: float | None,
    relative_step: float | None = None,
    output_step: float | None = None,
    pretrained: bool = False,
) -> tuple[Warm | ShrinkPerturb, str]:
    """Return the initialization that `auto` stands for, and the reason in a sentence.

    `normalized`: whether the network has BatchNorm layers.

    `train_accuracy`, `val_accuracy`: the parent's accuracies on its own data, in [0, 1]. Training samples are not
    augmented. None if unknown.

    `relative_step`: the learning rate divided by the smallest root mean square of a layer's weights. None if unknown,
    or if the optimizer does not divide by the gradient's size (Adam does). The learning rate is then not changed.

    `output_step`: the relative change of a perceptron's outputs by a step. None for other networks, and if it is
    unknown. It is then not used.

    `pretrained`: whether the weights are shrunk towards pretrained weights. Optimizer and normalization then do not
    matter, because the norm of the weights hardly changes. The relative step hardly changes either.
    """
    missing, why = missing_fit(train_accuracy, val_accuracy)
    gentle = max(setting.alpha, GENTLE_ALPHA)
    alpha = _between(setting.alpha, gentle, missing)
    if pretrained:
        start = ShrinkPerturb(alpha=alpha, beta=setting.beta, new_rows=setting.head_rows)
        return start, f"What training changed in the pretrained weights is shrunk to {alpha:g}: {why}."
    if not normalized:
        start = _shrink(setting, gentle, _rate(relative_step, output_step))
        return start, _describe(start, "without BatchNorm, shrinking more would destroy what they compute")
    if relative_step is None:
        start = _shrink(setting, alpha)
    else:
        alpha = _between(setting.alpha, 1.0, missing)
        start = _shrink(setting, alpha, _same_step_rate(setting.alpha, alpha))
    return start, _describe(start, why)


def has_large_steps(relative_step: float | None) -> bool:
    """Return whether steps are so large, relative to the weights, that a constant learning rate prevents convergence.

    `relative_step` is defined in `resolve_initialization`. It must come from a network without BatchNorm. Returns False
    if it is unknown.
    """
    return relative_step is not None and relative_step >= LARGE_STEP


def _between(fitted: float, unfitted: float, missing: float) -> float:
    return round(fitted + missing * (unfitted - fitted), 2)


def _shrink(setting: Auto, alpha: float, rate: float = 1.0) -> ShrinkPerturb:
    """Return a start that multiplies the weights by alpha, but leaves at least alpha times a new network's norm.

    Weights do not grow back in runs that stop early. In a trial on digits, each of three runs multiplied the weights by
    0.4. Then 0.15 of the norm was left, and the steps of the fourth run were too large to keep the old accuracy.
    """
    rows = setting.head_rows
    return ShrinkPerturb(alpha=alpha, beta=setting.beta, new_rows=rows, least_norm=alpha, rate=rate)


def _same_step_rate(fitted: float, alpha: float) -> float:
    """Return the factor on the learning rate that makes up for less shrinking.

    With this factor, a step after shrinking to `alpha` changes the weights by the same share as a step after shrinking
    to `fitted`. With BatchNorm, shrinking makes a run faster because its steps become larger relative to the weights. A
    higher learning rate does the same, and the run keeps what the under-fitted parent has learnt. In trials (clothes
    with 120 images a class, CIFAR-100 with 2.5 epochs), some runs had an alpha of 1 and a factor of 2 to 3. Other runs
    had an alpha of 0.8 and no factor. The runs with an alpha of 1 reached scratch's test accuracy 1.1 to 1.3 times
    sooner.
    """
    return round(min(RAISED_RATE, alpha / fitted), 2) if fitted else RAISED_RATE


def _rate(relative_step: float | None, output_step: float | None) -> float:
    """Return the factor on the learning rate of a network without BatchNorm."""
    if output_step is not None:
        factor, largest = OUTPUT_STEP / output_step, PERCEPTRON_RATE
    elif relative_step is not None:
        factor, largest = STEP / relative_step, RAISED_RATE
    else:
        return 1.0
    return round(min(largest, max(LOWERED_RATE, factor)), 2)


def _describe(start: ShrinkPerturb, why: str) -> str:
    rate = f" The learning rate is multiplied by {start.rate:g}." if start.rate != 1 else ""
    least = f" (never below {start.least_norm:g} of a new network's norm)" if start.least_norm else ""
    shrunk = f"shrunk to {start.alpha:g}{least}" if start.alpha < 1 else "not shrunk"
    return f"The parent's weights are {shrunk}: {why}.{rate}"


def missing_fit(train_accuracy: float | None, val_accuracy: float | None) -> tuple[float, str]:
    """Return the missing fit of a parent, from 0 (fitted) to 1 (under-fitted), and the reason in words."""
    if train_accuracy is None or val_accuracy is None:
        return 0.0, "the parent's training accuracy is unknown, so it counts as fitted"
    ratio = (1 - train_accuracy) / max(1 - val_accuracy, LEAST_ERROR)
    measured = f"with a training error {ratio:.2f} times its validation error"
    if val_accuracy == 1:
        measured = f"with a training error of {1 - train_accuracy:.2%} and no validation error"
    if train_accuracy >= LEARNT or ratio <= FITTED_RATIO:
        return 0.0, f"the parent is fitted, {measured}"
    if ratio >= UNFITTED_RATIO:
        return 1.0, f"the parent is under-fitted, {measured}"
    return (ratio - FITTED_RATIO) / (UNFITTED_RATIO - FITTED_RATIO), f"the parent is partly fitted, {measured}"
