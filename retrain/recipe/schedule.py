"""Schedule: how the learning rate falls, and how much sooner than scratch's (Verwimp et al., section 3.4)."""

import math

from retrain.config.recipe import Cosine, MultiStep, Schedule

LADDER = (0.25, 0.5, 1.0)
"""Lengths, as multiples of scratch's, that a run escalates through when it ends below its target."""


def rate_factor(setting: Schedule, iteration: int, iterations: int) -> float:
    """Return what the peak learning rate is multiplied by, in [0, 1], at an iteration in 0 .. `iterations`."""
    progress = iteration / iterations
    match setting:
        case Cosine():
            return (1 + math.cos(math.pi * progress)) / 2
        case MultiStep(milestones=milestones, factor=drop):
            return drop ** sum(progress >= milestone for milestone in milestones)


def resolve_scale(setting: Schedule, new_share: float) -> float:
    """Return the schedule's length as a multiple of scratch's; `new_share` is the share of new samples, in [0, 1].

    The paper's 0.25 misses the target where half or more of the data is new: `auto` then starts at 0.5.
    """
    if setting.scale != "auto":
        return setting.scale
    return 0.25 if new_share < 0.5 else 0.5


def longer_scale(scale: float) -> float | None:
    """Return the next longer rung of `LADDER`, or None at its end."""
    return next((rung for rung in LADDER if rung > scale), None)
