"""Compute metrics from records: running sums over all records, and values of each task's newest run."""

import platform
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import get_args

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from retrain import __version__
from retrain.config import Method
from retrain.config.task import Costs
from retrain.monitoring import names
from retrain.monitoring.names import Name, Unit
from retrain.records import RunRecord, Savings
from retrain.records.run import Outcome
from retrain.store import requests
from retrain.utils.histograms import Durations

Values = Iterable[tuple[tuple[str, ...], float]]
"""Pairs of label values and a number."""
MetricFunction = Callable[[RunRecord], Values]
"""Function that returns the values of one metric for a record."""
Age = tuple[datetime, str]
"""Sort key of records: the end of the run, then its id."""

JOULES_PER_KWH = 3.6e6
OUTCOMES = (*get_args(Outcome), "failed")


def family(name: Name, values: Values) -> Metric:
    """Return a metric with its values, as Prometheus' client library serves it."""
    kind = CounterMetricFamily if name.kind == "counter" else GaugeMetricFamily
    metric = kind(name.name, name.help, labels=name.labels)
    for labels, value in values:
        metric.add_metric(labels, value)
    return metric


def histogram(name: Name, durations: Durations) -> Metric:
    """Return durations as a histogram of Prometheus' client library."""
    metric = HistogramMetricFamily(name.name, name.help, labels=name.labels)
    bounds = [*map(str, durations.bounds), "+Inf"]
    for labels, distribution in durations.read().items():
        metric.add_metric(labels, list(zip(bounds, distribution.cumulative, strict=True)), distribution.seconds)
    return metric


def families(name: Name, values: Values) -> Iterator[Metric]:
    """Yield a metric with its values. For money, yield one metric per currency (the last label of `values`)."""
    if names.CURRENCY not in name.name:
        yield family(name, values)
        return
    by_currency: defaultdict[str, list[tuple[tuple[str, ...], float]]] = defaultdict(list)
    for (*labels, currency), value in values:
        by_currency[currency.lower()].append((tuple(labels), value))
    for currency, amounts in by_currency.items():
        yield family(name._replace(name=name.name.replace(names.CURRENCY, currency)), amounts)


def in_units(costs: Costs, watts: float | None, flops: float, seconds: float) -> dict[Unit, float]:
    """Return an amount of work in each unit. Energy, CO2 and cost are left out if the rate for them is unknown."""
    amounts: dict[Unit, float] = {"flops": flops, "device_seconds": seconds}
    if watts:
        amounts["energy_joules"] = joules = seconds * watts
        if costs.grams_co2_per_kwh:
            amounts["co2_grams"] = joules / JOULES_PER_KWH * costs.grams_co2_per_kwh
    if costs.price_per_device_hour:
        amounts["cost"] = seconds / 3600 * costs.price_per_device_hour
    return amounts


def mean_watts(record: RunRecord) -> float | None:
    """Return the mean power of a device: the task's setting, or else the measured energy divided by the time."""
    cost = record.result.cost if record.result else None
    if record.costs.device_watts or cost is None or cost.measured_joules is None or not cost.device_seconds_all_in:
        return record.costs.device_watts
    return cost.measured_joules / cost.device_seconds_all_in


def is_final(record: RunRecord) -> bool:
    """Return whether a record ends a retraining. A run that missed its target does not, if another run followed."""
    escalated = record.outcome == "missed" and record.evaluation is None
    return record.purpose == "retrain" and not escalated


def _runs(record: RunRecord) -> Values:
    """Yield 1 for the record's outcome and 0 for each other outcome.

    The zeros are needed because Prometheus sees no increase in a series that appears for the first time.
    """
    for outcome in OUTCOMES:
        yield (record.task, record.method, record.purpose, outcome), float(outcome == record.outcome)


def _decisions(record: RunRecord) -> Values:
    if record.decision:
        yield (record.task, "promoted"), float(record.decision.promoted)
        yield (record.task, "refused"), float(not record.decision.promoted)


def _labels(record: RunRecord, unit: Unit) -> tuple[str, ...]:
    labels = (record.task, record.method)
    return (*labels, record.costs.currency) if unit == "cost" else labels


def _savings(unit: Unit, select: Callable[[Savings], float]) -> MetricFunction:
    """Return a function that converts the field of the savings that `select` returns to this unit.

    Iterations are converted by the cost of an iteration of the same run.
    """

    def compute(record: RunRecord) -> Values:
        amount = _per_iteration(record).get(unit)
        if record.savings and amount is not None:
            yield _labels(record, unit), select(record.savings) * amount

    return compute


def _per_iteration(record: RunRecord) -> dict[Unit, float]:
    if record.result is None or record.result.cost.iterations == 0:
        return {"iterations": 1.0}
    cost = record.result.cost
    flops, seconds = cost.flops / cost.iterations, cost.device_seconds / cost.iterations
    amounts = in_units(record.costs, mean_watts(record), flops, seconds)
    return {"iterations": 1.0, **amounts}


def _consumed(unit: Unit) -> MetricFunction:
    def compute(record: RunRecord) -> Values:
        if record.result:
            cost = record.result.cost
            amounts = in_units(record.costs, mean_watts(record), cost.flops_all_in, cost.device_seconds_all_in)
            if unit in amounts:
                yield _labels(record, unit), amounts[unit]

    return compute


def _measured_joules(record: RunRecord) -> Values:
    if record.result and record.result.cost.measured_joules is not None:
        yield (record.task, record.method), record.result.cost.measured_joules


SUMS: dict[Name, MetricFunction] = {
    names.RUNS: _runs,
    names.DECISIONS: _decisions,
    names.USED: _savings("iterations", lambda savings: savings.used),
    names.USED_ALL_IN: _savings("iterations", lambda savings: savings.used_all_in),
    names.SAVED_ERROR: _savings("iterations", lambda savings: savings.standard_error),
    **{name: _savings(unit, lambda savings: savings.baseline) for unit, name in names.BASELINE.items()},
    **{name: _savings(unit, lambda savings: savings.gross) for unit, name in names.SAVED_GROSS.items()},
    **{name: _savings(unit, lambda savings: savings.net) for unit, name in names.SAVED_NET.items()},
    **{name: _savings(unit, lambda savings: savings.whole) for unit, name in names.WHOLE.items()},
    **{name: _savings(unit, lambda savings: savings.gross_whole) for unit, name in names.SAVED_WHOLE_GROSS.items()},
    **{name: _savings(unit, lambda savings: savings.net_whole) for unit, name in names.SAVED_WHOLE_NET.items()},
    **{name: _consumed(unit) for unit, name in names.CONSUMED.items()},
    names.MEASURED_ENERGY: _measured_joules,
}
"""Functions of a record whose values are summed over all records."""


def _gauge(select: Callable[[RunRecord], float | None]) -> MetricFunction:
    def compute(record: RunRecord) -> Values:
        value = select(record)
        return () if value is None else [((record.task,), value)]

    return compute


def _scores(record: RunRecord) -> Values:
    result, evaluation = record.result, record.evaluation
    scores = {"val": result.final_score if result else None, "test": evaluation.score if evaluation else None}
    return [((record.task, record.metric, split), value) for split, value in scores.items() if value is not None]


def _parts(record: RunRecord) -> Values:
    evaluation = record.evaluation
    parts = {"old": evaluation.old, "new": evaluation.new} if evaluation else {}
    return [((record.task, record.metric, part), value) for part, value in parts.items() if value is not None]


def _target(record: RunRecord) -> Values:
    return [((record.task, record.metric), record.target.accuracy)] if record.target else []


def _speed_ups(record: RunRecord) -> Values:
    speed_up = record.result.speed_up if record.result and record.target else {}
    return [((record.task, level), value) for level, value in speed_up.items() if value is not None]


def _target_met(record: RunRecord) -> float | None:
    """Return 1 if the retraining met its target, 0 if not, and None if it never had a target.

    After runs that missed the target with all schedules, a last run trains from scratch without a target. It gives 0.
    """
    if record.target is None and record.attempt == 0:
        return None
    return float(record.outcome == "reached")


def _trained(record: RunRecord) -> bool:
    return is_final(record) and record.result is not None


def _decided(record: RunRecord) -> bool:
    return is_final(record) and record.decision is not None


def _succeeded(record: RunRecord) -> bool:
    return record.decision is not None and record.decision.promoted


NEWEST: dict[Name, tuple[Callable[[RunRecord], bool], MetricFunction]] = {
    names.ACCURACY: (_trained, _gauge(lambda r: r.evaluation.accuracy if r.evaluation else None)),
    names.SCORE: (_trained, _scores),
    names.PART_SCORE: (_trained, _parts),
    names.VALIDATION_ACCURACY: (_trained, _gauge(lambda r: r.result.final_accuracy if r.result else None)),
    names.TARGET_SCORE: (_trained, _target),
    names.TARGET_ERROR: (_trained, _gauge(lambda r: r.target.standard_error if r.target else None)),
    names.TARGET_CARRIED: (
        _trained,
        _gauge(lambda r: float(r.target.provenance == "carried") if r.target else None),
    ),
    names.BASELINE_AGE: (_trained, _gauge(lambda r: r.target.age if r.target else None)),
    names.SPEED_UP: (_trained, _speed_ups),
    names.TARGET_MET: (_trained, _gauge(_target_met)),
    names.PROMOTED: (_decided, _gauge(lambda r: float(_succeeded(r)))),
    names.LAST_RUN: (is_final, _gauge(lambda r: r.ended_at.timestamp())),
    names.LAST_SUCCESS: (_succeeded, _gauge(lambda r: r.ended_at.timestamp())),
}
"""For each metric: a condition, and a function that is applied to each task's newest record that meets the condition. A
value that this record lacks is left out."""


def _run_duration(record: RunRecord) -> Values:
    if record.result:
        yield (record.task, record.method), (record.ended_at - record.started_at).total_seconds()


def _stage_durations(record: RunRecord) -> Values:
    return [((record.task, stage), seconds) for stage, seconds in record.stage_seconds.items()]


DURATIONS: dict[Name, MetricFunction] = {names.RUN_DURATION: _run_duration, names.STAGE_DURATION: _stage_durations}
"""Durations that are counted in buckets over all records."""


class Totals(Collector):
    """The metrics of all records that were added, in any order. Memory does not grow with the number of records."""

    def __init__(self) -> None:
        self._sums: dict[Name, defaultdict[tuple[str, ...], float]] = {name: defaultdict(float) for name in SUMS}
        self._durations = {name: Durations(names.DURATION_BOUNDS) for name in DURATIONS}
        self._newest: dict[tuple[Name, str], tuple[Age, Values]] = {}
        self._recent: defaultdict[str, list[tuple[Age, float]]] = defaultdict(list)

    def add_outcomes(self, task: str) -> None:
        """Serve a zero for each outcome of a retraining that the task has not had, by each method.

        Prometheus sees no increase in a series that appears with its first value. Without the zeros, the alert
        RetrainRunFailed would miss the first failure of a method. Call this after a task's ledger was read.
        """
        for method in get_args(Method):
            for outcome in OUTCOMES:
                self._sums[names.RUNS][task, method, "retrain", outcome] += 0.0

    def add(self, record: RunRecord) -> None:
        """Add a record. A record that is added twice is counted twice."""
        age = (record.ended_at, record.run_id)
        for name, compute in SUMS.items():
            for labels, value in compute(record):
                self._sums[name][labels] += value
        for name, compute in DURATIONS.items():
            for labels, seconds in compute(record):
                self._durations[name].observe(labels, seconds)
        for name, (applies, compute) in NEWEST.items():
            known = self._newest.get((name, record.task))
            if applies(record) and (known is None or known[0] < age):
                self._newest[name, record.task] = age, compute(record)
        if record.savings:
            recent = [*self._recent[record.task], (age, record.savings.net)]
            self._recent[record.task] = sorted(recent)[-names.RECENT_RUNS :]

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        for name, sums in self._sums.items():
            yield from families(name, sums.items())
        for name, durations in self._durations.items():
            yield histogram(name, durations)
        for name in NEWEST:
            yield family(
                name, [value for (key, _), (_, values) in self._newest.items() if key == name for value in values]
            )
        yield family(names.RECENT_SAVED, list(self._recent_sums()))

    def _recent_sums(self) -> Iterator[tuple[tuple[str, ...], float]]:
        for task, recent in self._recent.items():
            if len(recent) == names.RECENT_RUNS:
                yield (task,), sum(net for _, net in recent)


def render(records: Iterable[RunRecord]) -> bytes:
    """Return the metrics of these records in the Prometheus text format."""
    totals = Totals()
    for record in records:
        totals.add(record)
    registry = CollectorRegistry()
    registry.register(totals)
    return generate_latest(registry)


class ProcessMetrics(Collector):
    """Metrics that every process has: its version, and the durations of its requests to the store."""

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield family(names.BUILD_INFO, [((__version__, platform.python_version()), 1)])
        yield histogram(names.STORE_REQUESTS, requests.REQUESTS)


def make_registry(*collectors: Collector) -> CollectorRegistry:
    """Return a registry of these collectors, of `ProcessMetrics`, and of Prometheus' `process_*`."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    for collector in (ProcessMetrics(), *collectors):
        registry.register(collector)
    return registry
