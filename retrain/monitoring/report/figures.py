"""Compute the numbers of the report, and format them."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Literal, NamedTuple, TypeVar

from retrain.config import METRIC_NAMES, Metric
from retrain.monitoring import metrics, names
from retrain.monitoring.names import Unit
from retrain.records import RunRecord, Savings
from retrain.records.ledger import total_savings
from retrain.utils.clock import format_seconds

T = TypeVar("T")


class Headline(NamedTuple):
    """A task's totals, and its newest retraining with a target."""

    total: Savings
    saved_share: float | None
    """Net savings as a share of the iterations of training from scratch. None before the first savings."""
    saved_amounts: Sequence["Amount"]
    """Net savings in money, energy and CO2. Empty if neither a price nor the power is known."""
    device_seconds: float
    outcomes: Counter[str]
    newest: RunRecord | None
    """The newest retraining that had a target."""


class Amount(NamedTuple):
    """Net savings in a unit other than iterations, computed with the cost of an iteration of each run."""

    unit: str
    net: float
    """Compared with s_scratch."""
    net_whole: float
    """Compared with full trainings from scratch."""


class Step(NamedTuple):
    """The savings of a run and of all earlier runs, added up."""

    at: datetime
    run_id: str
    savings: Savings


def headline(records: Sequence[RunRecord]) -> Headline:
    """Return the totals of a ledger. `records` are its records, oldest first."""
    total = total_savings(records)
    targeted = (
        record for record in reversed(records) if record.purpose == "retrain" and record.result and record.target
    )
    return Headline(
        total=total,
        saved_share=total.net / total.baseline if total.baseline else None,
        saved_amounts=saved_amounts(records),
        device_seconds=sum(record.result.cost.device_seconds_all_in for record in records if record.result),
        outcomes=Counter(record.outcome for record in records),
        newest=next(targeted, None),
    )


SHOWN: Mapping[Unit, tuple[str, float]] = {
    "cost": ("", 1.0),
    "energy_joules": ("kWh", metrics.JOULES_PER_KWH),
    "co2_grams": ("kg CO₂", 1000.0),
}
"""Units in which net savings are shown besides iterations, each with its label (empty: the currency) and divisor."""


def saved_amounts(records: Sequence[RunRecord]) -> list[Amount]:
    """Add up net savings in money by currency, in energy and in CO2, as the exporter does."""
    amounts = []
    for unit, (label, divisor) in SHOWN.items():
        net, whole = (
            sum_by_currency(records, metrics.SUMS[name[unit]]) for name in (names.SAVED_NET, names.SAVED_WHOLE_NET)
        )
        amounts += [Amount(label or key, net[key] / divisor, whole[key] / divisor) for key in sorted(net)]
    return amounts


def sum_by_currency(records: Iterable[RunRecord], compute: metrics.MetricFunction) -> Mapping[str, float]:
    """Return the sum over records of the values that `compute` returns, by currency.

    Values that are not in money have the key "".
    """
    sums: defaultdict[str, float] = defaultdict(float)
    for record in records:
        for (_, _, *currency), amount in compute(record):
            sums["".join(currency)] += amount
    return sums


def cumulative(records: Sequence[RunRecord]) -> list[Step]:
    """Return the sum of the savings after each run whose record has savings, oldest first."""
    counted = [(record, record.savings) for record in records if record.savings]
    sums = accumulate(savings for _, savings in counted)
    return [Step(record.ended_at, record.run_id, total) for (record, _), total in zip(counted, sums, strict=True)]


def thin(items: Sequence[T], limit: int) -> list[T]:
    """Return at most `limit` of the items, evenly spaced. The first and the last item are among them."""
    last = len(items) - 1
    if last < limit:
        return list(items)
    return [items[position * last // (limit - 1)] for position in range(limit)]


MINUS = "−"


def percent(value: float | None) -> str:
    """Return a score in percent."""
    return "–" if value is None else f"{value:.2%}"


def metric(name: Metric) -> str:
    """Return a metric's name for use in a sentence."""
    return METRIC_NAMES[name]


def points(value: float) -> str:
    """Return a difference of two scores, in percentage points."""
    return f"{100 * value:+.2f}".replace("-", MINUS)


def count(value: float) -> str:
    """Format a count."""
    return f"{value:,.0f}"


def signed(value: float) -> str:
    """Format savings with their sign. + means that iterations were saved."""
    return f"{value:+,.0f}".replace("-", MINUS)


def money(value: float) -> str:
    """Format savings in money with their sign."""
    return f"{value:+,.2f}".replace("-", MINUS)


def speed_up(record: RunRecord, level: Literal["99", "100"]) -> str:
    """Format L_99 or L_100. Return '/' if the run did not reach the score, as in the paper's tables.

    Return a dash if the target is carried over: scratch was not trained on the same dataset, so L was not measured.
    """
    if record.result is None or record.target is None or record.target.scope is not None:
        return "–"
    value = record.result.speed_up[level]
    return "/" if value is None else f"×{value:.2f}"


def duration(seconds: float) -> str:
    """Format a time on a device."""
    return f"{seconds:,.0f} s" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


FILTERS: dict[str, Callable[..., str]] = {
    function.__name__: function for function in (percent, metric, points, count, signed, money, speed_up, duration)
} | {"age": format_seconds}
