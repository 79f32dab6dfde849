"""Schedule: how the learning rate changes, and how long a run may be (Verwimp et al., section 3.4)."""

import math

from retrain.config.recipe import Constant, Cosine, MultiStep, Schedule


def learning_rate(setting: Schedule, peak: float, iteration: int, iterations: int) -> float:
    """Return the learning rate at an iteration in 0 .. `iterations`, where `peak` is the optimizer's own."""
    progress = iteration / iterations
    match setting:
        case Constant(warmup=warmup):
            return peak * min(1.0, (iteration + 1) / max(1, warmup))
        case Cosine(final_rate=final):
            return final + (peak - final) * (1 + math.cos(math.pi * progress)) / 2
        case MultiStep(milestones=milestones, factor=drop):
            return peak * drop ** sum(progress >= milestone for milestone in milestones)


def resolve_scale(setting: Schedule, new_share: float) -> float:
    """Return the schedule's length as a multiple of scratch's; `new_share` is the share of new samples, in [0, 1].

    The paper's 0.25 misses the target where half or more of the data is new: `auto` then starts at 0.5.
    """
    if setting.scale != "auto":
        return setting.scale
    return 0.25 if new_share < 0.5 else 0.5


def longer_scale(setting: Schedule, scale: float) -> float | None:
    """Return the next longer scale of a schedule's escalation, or None at its end."""
    longer = () if isinstance(setting, Constant) else setting.escalation
    return min((each for each in longer if each > scale), default=None)
