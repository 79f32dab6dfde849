"""Every metric of the ledger, once: its name, what it means, and how it follows from records.

What a run saves can be negative, and a Prometheus counter must never fall: what was used and what scratch would have
used are counters, their difference is a gauge.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from retrain.records import RunRecord, Savings

Value = tuple[tuple[str, ...], float]


class Spec(NamedTuple):
    """One metric: `values` yields its label values and numbers for the runs of one task, oldest first."""

    kind: type[CounterMetricFamily] | type[GaugeMetricFamily]
    name: str
    help: str
    labels: tuple[str, ...]
    values: Callable[[Sequence[RunRecord]], Iterable[Value]]


def _sums(figure: Callable[[Savings], float]) -> Callable[[Sequence[RunRecord]], Iterator[Value]]:
    """Add up a figure of the savings, by task and method."""

    def values(records: Sequence[RunRecord]) -> Iterator[Value]:
        for task, method in sorted({(record.task, record.method) for record in records}):
            parts = [r.savings for r in records if r.savings and (r.task, r.method) == (task, method)]
            yield (task, method), sum(figure(part) for part in parts)

    return values


def _costs(figure: Callable[[RunRecord], float]) -> Callable[[Sequence[RunRecord]], Iterator[Value]]:
    """Add up a figure of runs that have a result, by task and method."""

    def values(records: Sequence[RunRecord]) -> Iterator[Value]:
        for task, method in sorted({(record.task, record.method) for record in records}):
            yield (task, method), sum(figure(r) for r in records if r.result and (r.task, r.method) == (task, method))

    return values


def _runs(records: Sequence[RunRecord]) -> Iterator[Value]:
    keys = [(record.task, record.method, record.purpose, record.outcome) for record in records]
    for key in sorted(set(keys)):
        yield key, keys.count(key)


def _newest(figure: Callable[[RunRecord], float | None]) -> Callable[[Sequence[RunRecord]], Iterator[Value]]:
    """A figure of each task's newest retraining that has it."""

    def values(records: Sequence[RunRecord]) -> Iterator[Value]:
        newest = {r.task: value for r in records if r.purpose == "retrain" and (value := figure(r)) is not None}
        yield from (((task,), value) for task, value in sorted(newest.items()))

    return values


def _speed_ups(records: Sequence[RunRecord]) -> Iterator[Value]:
    newest = {r.task: r.result.speed_up for r in records if r.purpose == "retrain" and r.result and r.target}
    for task, speed_up in sorted(newest.items()):
        yield from (((task, level), value) for level, value in speed_up.items() if value is not None)


TASK, METHOD = ("task",), ("task", "method")

SPECS = (
    Spec(CounterMetricFamily, "retrain_runs", "Ended runs.", ("task", "method", "purpose", "outcome"), _runs),
    Spec(
        CounterMetricFamily,
        "retrain_baseline_iterations",
        "Iterations that training from scratch would have taken for what the runs yielded.",
        METHOD,
        _sums(lambda savings: savings.baseline),
    ),
    Spec(
        CounterMetricFamily,
        "retrain_used_iterations",
        "Iterations that the runs took, missed attempts and calibrations included.",
        METHOD,
        _sums(lambda savings: savings.used),
    ),
    Spec(
        CounterMetricFamily,
        "retrain_used_all_in_iterations",
        "Iterations that the runs took, evaluation charged at a third of an iteration a batch.",
        METHOD,
        _sums(lambda savings: savings.used_all_in),
    ),
    Spec(
        GaugeMetricFamily,
        "retrain_saved_gross_iterations",
        "Iterations saved against scratch so far: training alone, calibrations left out. Can fall.",
        METHOD,
        _sums(lambda savings: savings.gross),
    ),
    Spec(
        GaugeMetricFamily,
        "retrain_saved_net_iterations",
        "Iterations saved against scratch so far, evaluation and calibrations charged. Can fall.",
        METHOD,
        _sums(lambda savings: savings.net),
    ),
    Spec(
        CounterMetricFamily,
        "retrain_device_seconds",
        "Time on the device, evaluation and saving included.",
        METHOD,
        _costs(lambda record: record.result.cost.device_seconds_all_in if record.result else 0.0),
    ),
    Spec(
        CounterMetricFamily,
        "retrain_flops",
        "Floating-point operations, evaluation included.",
        METHOD,
        _costs(lambda record: record.result.cost.flops_all_in if record.result else 0.0),
    ),
    Spec(
        GaugeMetricFamily,
        "retrain_accuracy_ratio",
        "Accuracy of the newest run's model on the test split.",
        TASK,
        _newest(lambda record: record.evaluation.accuracy if record.evaluation else None),
    ),
    Spec(
        GaugeMetricFamily,
        "retrain_validation_accuracy_ratio",
        "Accuracy of the newest run's model on the validation split, which it was stopped on.",
        TASK,
        _newest(lambda record: record.result.final_accuracy if record.result else None),
    ),
    Spec(
        GaugeMetricFamily,
        "retrain_target_accuracy_ratio",
        "Accuracy on the validation split at which the newest run was to stop.",
        TASK,
        _newest(lambda record: record.target.accuracy if record.target else None),
    ),
    Spec(
        GaugeMetricFamily,
        "retrain_baseline_age_drops",
        "Drops that have landed since the baseline of the newest run was measured.",
        TASK,
        _newest(lambda record: record.target.age if record.target else None),
    ),
    Spec(
        GaugeMetricFamily,
        "retrain_speed_up_ratio",
        "L_99 and L_100 of the newest run with a target: the baseline's iterations over its own; absent where missed.",
        ("task", "level"),
        _speed_ups,
    ),
    Spec(
        GaugeMetricFamily,
        "retrain_last_success_timestamp_seconds",
        "When a retraining last ended with a promotion.",
        TASK,
        _newest(lambda record: record.ended_at.timestamp() if record.decision and record.decision.promoted else None),
    ),
)


class LedgerCollector(Collector):
    """Serves a ledger's records, oldest first, as metrics."""

    def __init__(self, records: Sequence[RunRecord]) -> None:
        self.records = records

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family."""
        for spec in SPECS:
            family = spec.kind(spec.name, spec.help, labels=spec.labels)
            for labels, value in spec.values(self.records):
                family.add_metric(labels, value)
            yield family


def render(records: Sequence[RunRecord]) -> bytes:
    """Return the metrics of these records in the Prometheus text format."""
    registry = CollectorRegistry()
    registry.register(LedgerCollector(records))
    return generate_latest(registry)
