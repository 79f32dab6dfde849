"""Schedule: the learning rate during a run, and the largest length of the run (Verwimp et al., section 3.4)."""

import math

from retrain.config.recipe import AutoSchedule, Constant, Cosine, InverseTime, MultiStep, OpenEnded, Schedule


def learning_rate(setting: Schedule, peak: float, iteration: int, iterations: int, warmup: int = 0) -> float:
    """Return the learning rate at iteration t in 0 .. T, where T is `iterations`. `peak` is the optimizer's rate.

    Every schedule is multiplied by min(1, (t + 1) / warmup). A schedule without an end has its own warm-up. The longer
    of the two warm-ups applies. Raises `ValueError` if the schedule is still auto.

    constant: peak.
    inverse_time: peak / (1 + t / h), where h = half · T / scale: a smaller budget does not change the rates.
    cosine (Verwimp et al., A.2): final + (peak - final) · (1 + cos(π t/T)) / 2.
    multistep: peak · factor^k after k milestones.
    """
    progress = iteration / iterations
    if isinstance(setting, OpenEnded):
        warmup = max(warmup, setting.warmup)
    peak *= min(1.0, (iteration + 1) / max(1, warmup))
    match setting:
        case Constant():
            return peak
        case InverseTime(half=half, scale=scale):
            return peak / (1 + progress * scale / half)
        case Cosine(final_rate=final):
            return final + (peak - final) * (1 + math.cos(math.pi * progress)) / 2
        case MultiStep(milestones=milestones, factor=factor):
            return peak * factor ** sum(progress >= milestone for milestone in milestones)
        case AutoSchedule():
            raise ValueError("recipe.schedule is still auto: resolve it first")


def resolve_kind(setting: Schedule, falls: bool) -> Schedule:
    """Return the schedule that `auto` stands for: a falling or a constant learning rate."""
    if not isinstance(setting, AutoSchedule):
        return setting
    kind = InverseTime if falls else Constant
    return kind(scale=setting.scale, warmup=setting.warmup)


def resolve_scale(setting: Schedule, new_share: float) -> float:
    """Return the schedule's length as a multiple of scratch's. `new_share` is the share of new samples, in [0, 1].

    In the paper, runs with a scale of 0.25 miss the target if half or more of the data is new. `auto` then starts at
    0.5.
    """
    if setting.scale != "auto":
        return setting.scale
    return 0.25 if new_share < 0.5 else 0.5


def longer_scale(setting: Schedule, scale: float) -> float | None:
    """Return the next longer scale of a schedule's escalation, or None after the last one.

    A schedule without an end cannot become longer.
    """
    longer = () if isinstance(setting, OpenEnded) else setting.escalation
    return min((each for each in longer if each > scale), default=None)
