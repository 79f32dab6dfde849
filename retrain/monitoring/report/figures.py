"""The figures of the report, and how they are formatted."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import NamedTuple, TypeVar

from retrain.config import METRIC_NAMES, Metric
from retrain.monitoring import metrics, names
from retrain.monitoring.names import Unit
from retrain.records import RunRecord, Savings
from retrain.records.ledger import total_savings

T = TypeVar("T")


class Headline(NamedTuple):
    """A task's totals, and the run that people ask about first."""

    total: Savings
    saved_share: float | None
    """Net savings as a share of what training from scratch would have taken; None before there is any."""
    saved_amounts: Sequence["Amount"]
    """Net savings in money, energy and CO2; empty where tasks give neither price nor power."""
    device_seconds: float
    outcomes: Counter[str]
    newest: RunRecord | None
    """The newest retraining that had a target."""


class Amount(NamedTuple):
    """Net savings in another unit than iterations, at what an iteration of each very run took of it."""

    unit: str
    net: float
    """Against s_scratch."""
    net_whole: float
    """Against whole trainings from scratch."""


class Step(NamedTuple):
    """What was saved by a run and all before it."""

    at: datetime
    run_id: str
    savings: Savings


def headline(records: Sequence[RunRecord]) -> Headline:
    """Add up a ledger, oldest record first."""
    total = total_savings(records)
    raced = (record for record in reversed(records) if record.purpose == "retrain" and record.result and record.target)
    return Headline(
        total=total,
        saved_share=total.net / total.baseline if total.baseline else None,
        saved_amounts=saved_amounts(records),
        device_seconds=sum(record.result.cost.device_seconds_all_in for record in records if record.result),
        outcomes=Counter(record.outcome for record in records),
        newest=next(raced, None),
    )


SHOWN: Mapping[Unit, tuple[str, float]] = {
    "cost": ("", 1.0),
    "energy_joules": ("kWh", metrics.JOULES_PER_KWH),
    "co2_grams": ("kg CO₂", 1000.0),
}
"""Units that net savings are shown in beside iterations: their label, by default the currency, and their divisor."""


def saved_amounts(records: Sequence[RunRecord]) -> list[Amount]:
    """Add up net savings in money by currency, in energy and in CO2, as the exporter does."""
    amounts = []
    for unit, (label, divisor) in SHOWN.items():
        net, whole = (
            sum_by_currency(records, metrics.SUMS[name[unit]]) for name in (names.SAVED_NET, names.SAVED_WHOLE_NET)
        )
        amounts += [Amount(label or key, net[key] / divisor, whole[key] / divisor) for key in sorted(net)]
    return amounts


def sum_by_currency(records: Iterable[RunRecord], figure: metrics.Figure) -> Mapping[str, float]:
    """Add up a figure over records by currency; under "" where it is none of money."""
    sums: defaultdict[str, float] = defaultdict(float)
    for record in records:
        for (_, _, *currency), amount in figure(record):
            sums["".join(currency)] += amount
    return sums


def cumulative(records: Sequence[RunRecord]) -> list[Step]:
    """Return the savings after each run that has any, oldest first."""
    counted = [(record, record.savings) for record in records if record.savings]
    sums = accumulate(savings for _, savings in counted)
    return [Step(record.ended_at, record.run_id, total) for (record, _), total in zip(counted, sums, strict=True)]


def thin(items: Sequence[T], limit: int) -> list[T]:
    """Return at most `limit` of the items, evenly spaced, the first and the last among them."""
    last = len(items) - 1
    if last < limit:
        return list(items)
    return [items[position * last // (limit - 1)] for position in range(limit)]


MINUS = "−"


def percent(value: float | None) -> str:
    """A score."""
    return "–" if value is None else f"{value:.2%}"


def metric(name: Metric) -> str:
    """A metric's name in sentences."""
    return METRIC_NAMES[name]


def points(value: float) -> str:
    """A difference of two scores, in percentage points."""
    return f"{100 * value:+.2f}".replace("-", MINUS)


def count(value: float) -> str:
    """A number of things."""
    return f"{value:,.0f}"


def signed(value: float) -> str:
    """What was saved: a gain or a loss."""
    return f"{value:+,.0f}".replace("-", MINUS)


def money(value: float) -> str:
    """The same in money."""
    return f"{value:+,.2f}".replace("-", MINUS)


def times(value: float | None) -> str:
    """A speed-up; '/' where the level was not reached, as in the paper's tables."""
    return "/" if value is None else f"×{value:.2f}"


def duration(seconds: float) -> str:
    """Time on a device."""
    return f"{seconds:,.0f} s" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def age(seconds: float) -> str:
    """How long ago, in the largest unit that is there at least twice."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} s"


FILTERS: dict[str, Callable[..., str]] = {
    function.__name__: function for function in (percent, metric, points, count, signed, money, times, duration, age)
}
