"""The trigger policy: decide whether landed drops start a run now, and which conditions are not met. Pure functions."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import accumulate
from statistics import mean
from typing import Literal, NamedTuple, get_args

from retrain.config.automation import Budget, Trigger
from retrain.records import Plan, RunRecord
from retrain.utils.clock import format_moment, parse_duration
from retrain.utils.text import pluralize

Condition = Literal["min_samples", "min_new_share", "quiet_period", "expected_saving", "budget", "pause"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
"""Conditions that can postpone a run. Each is the name of a field of the setting `trigger`."""

WITHIN_A_WEEK = timedelta(days=6)
"""Messages give the weekday of a moment at most this far ahead. They give the date of a later moment."""


class Unmet(NamedTuple):
    """A condition that does not hold."""

    condition: Condition
    waits: str
    """The text after "waits" in a message, such as "for 12 more samples"."""
    until: datetime | None = None
    """Time at which the condition will hold. None if only new drops or a changed setting can fulfil it."""
    is_overridden: bool = True
    """Whether `max_wait`, a drift or an erasure overrides it."""


class Waiting(NamedTuple):
    """Changes of a dataset since the champion's run."""

    landed: Sequence[datetime]
    """Times at which the new drops landed, oldest first."""
    corrected: Sequence[datetime] = ()
    """Times of the corrections of earlier drops, oldest first."""
    drifted: Sequence[str] = ()
    """New drops whose images differ from the champion's held-out images."""
    must_unlearn: bool = False
    """Whether the champion learnt from erased samples, and `erase.policy` is `retrain`."""


class TriggerState(NamedTuple):
    """The decision whether a run may start, and the reason."""

    unmet: tuple[Unmet, ...]
    reason: str
    """The reason why the run waits or starts. Empty if the task has no conditions."""
    until: datetime | None = None
    """Latest time of the next check. A drop that lands earlier causes an earlier check."""


def evaluate_trigger(
    trigger: Trigger,
    plan: Plan,
    waiting: Waiting,
    records: Sequence[RunRecord],
    saved: Sequence[float],
    now: datetime,
) -> TriggerState:
    """Return whether a planned run may start now.

    `records` are the records of the ledger. `saved` are the shares of scratch's iterations that the last retrainings
    saved.
    """
    if trigger.model_copy(update={"drift": "ignore"}) == Trigger():
        return TriggerState((), "")
    oldest = min((*waiting.landed[:1], *waiting.corrected[:1]), default=None)
    forced_at = oldest + parse_duration(trigger.max_wait) if trigger.max_wait and oldest else None
    unmet = tuple(_unmet(trigger, plan, waiting.landed, records, saved, now))
    if forced := _forced(trigger, waiting, forced_at, now):
        unmet = tuple(one for one in unmet if not one.is_overridden)
        if not unmet:
            return TriggerState((), forced)
    if not unmet:
        return TriggerState((), "all conditions of trigger hold")
    moments = [one.until for one in unmet if one.until]
    reason = "waits " + " and ".join(one.waits for one in unmet)
    if forced_at and forced_at > now and all(one.is_overridden for one in unmet):
        moments.append(forced_at)
        reason += f", or until {_moment(forced_at, now)}"
    return TriggerState(unmet, reason, min(moments, default=None))


def _forced(trigger: Trigger, waiting: Waiting, forced_at: datetime | None, now: datetime) -> str | None:
    """Return the reason why the conditions that can be overridden no longer apply. None if they still apply."""
    if waiting.must_unlearn:
        return "erased samples must be unlearnt, whatever the conditions of trigger are"
    if forced_at and forced_at <= now:
        return f"the oldest drop or correction has waited for trigger.max_wait {trigger.max_wait}"
    if waiting.drifted and trigger.drift == "run":
        return f"the images of {', '.join(waiting.drifted)} have drifted, and trigger.drift is run"
    return None


def _unmet(
    trigger: Trigger,
    plan: Plan,
    landed: Sequence[datetime],
    records: Sequence[RunRecord],
    saved: Sequence[float],
    now: datetime,
) -> Iterator[Unmet]:
    samples = sum(ref.samples for ref in plan.dataset.drops[plan.known :])
    if samples < trigger.min_samples:
        yield Unmet("min_samples", f"for {pluralize(trigger.min_samples - samples, 'more sample')}")
    if samples < trigger.min_new_share * plan.dataset.samples:
        share = samples / plan.dataset.samples
        yield Unmet("min_new_share", f"until {trigger.min_new_share:.0%} of the samples are new ({share:.0%} are)")
    if trigger.quiet_period and landed:
        quiet_at = landed[-1] + parse_duration(trigger.quiet_period)
        if quiet_at > now:
            yield Unmet("quiet_period", f"until no drop has landed for {trigger.quiet_period}", quiet_at)
    if trigger.expected_saving is not None and saved and mean(saved) < trigger.expected_saving:
        past = f"the last {pluralize(len(saved), 'run')} saved {mean(saved):.0%} of scratch's iterations"
        yield Unmet(
            "expected_saving", f"because {past}, less than trigger.expected_saving {trigger.expected_saving:.0%}"
        )
    yield from _unmet_budget(trigger.budget, records, now)
    if trigger.pause:
        yield Unmet("pause", "until trigger.pause is false", is_overridden=False)


def _unmet_budget(budget: Budget, records: Iterable[RunRecord], now: datetime) -> Iterator[Unmet]:
    for spent in spent_budget(budget, records, now):
        waits = f"until {_moment(spent.until, now)}, because {spent.why} this {budget.per}"
        yield Unmet("budget", waits, spent.until, is_overridden=False)


class SpentBudget(NamedTuple):
    """A limit of a budget that the runs of one period have reached."""

    unit: str
    why: str
    at: datetime
    """End of the run that reached the limit."""
    start: datetime
    until: datetime


def spent_budget(budget: Budget, records: Iterable[RunRecord], now: datetime) -> Iterator[SpentBudget]:
    """Yield the limits that the runs of the period around `now` have reached."""
    start, end = period_of(budget, now)
    ended = [record for record in records if record.result and start <= record.ended_at < end]
    ended.sort(key=lambda record: record.ended_at)
    hours = [_hours(record) for record in ended]
    costs = [_hours(record) * (record.costs.price_per_device_hour or 0.0) for record in ended]
    limits = (
        (hours, budget.device_hours, "device hours", "of budget.device_hours"),
        (costs, budget.cost, "of money", "of budget.cost"),
    )
    for amounts, limit, unit, words in limits:
        sums = list(accumulate(amounts))
        if limit is not None and sums and sums[-1] >= limit:
            why = f"{sums[-1]:,.1f} {words} {limit:,g} are spent"
            reached = next(at for at, spent in enumerate(sums) if spent >= limit)
            yield SpentBudget(unit, why, ended[reached].ended_at, start, end)


def _hours(record: RunRecord) -> float:
    return record.result.cost.device_seconds_all_in / 3600 if record.result else 0.0


def period_of(budget: Budget, now: datetime) -> tuple[datetime, datetime]:
    """Return the start of the budget's period that contains `now`, and the start of the next period."""
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if budget.per == "day":
        return day, day + timedelta(days=1)
    if budget.per == "week":
        monday = day - timedelta(days=day.weekday())
        return monday, monday + timedelta(days=7)
    first = day.replace(day=1)
    return first, (first + timedelta(days=32)).replace(day=1)


def _moment(moment: datetime, now: datetime) -> str:
    return f"{moment:%A %H:%M} UTC" if moment - now <= WITHIN_A_WEEK else format_moment(moment)
