"""Compute the suite's numbers from its results, with pure functions.

No function here uses the accounting of `retrain.pipeline`, so the results are an independent check of the ledger. An
evaluated image costs a third of a trained image. A run that never reaches scratch's accuracy costs its iterations plus
scratch's, because training from scratch would have to follow it.

A sequence is one regime with one seed: all its drops, one after the other.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import exp, log, sqrt
from statistics import fmean, stdev
from typing import NamedTuple

from retrain.experiments.regimes.methods import (
    AVERAGED,
    DEFAULT,
    DEFAULT_TO_AVERAGED,
    DEFAULT_TO_PLAIN,
    NAIVE,
    PAPER,
    PLAIN,
)
from retrain.experiments.regimes.records import Key, SuiteAdvice, SuiteRun

EVALUATED = 1 / 3
"""Cost of an evaluated image, in trained images. It needs the forward pass, and not the backward pass."""

Runs = Mapping[Key, SuiteRun]


class Baseline(NamedTuple):
    """A scratch run's final accuracy, and the iterations until its curve first reached it (Verwimp et al., eq. 1)."""

    accuracy: float
    iterations: int


class Comparison(NamedTuple):
    """Iterations of a method and of scratch to scratch's final accuracy, summed over the drops of a sequence."""

    scratch: int
    taken: int
    """Iterations of the method. A run that never reached the accuracy counts with all its iterations plus scratch's."""
    reached: int
    """Number of drops on which the accuracy was reached."""
    drops: int

    @property
    def speed_up(self) -> float:
        """Return L_r (eq. 2), over all drops."""
        return self.scratch / self.taken


class SequenceFigures(NamedTuple):
    """The numbers of one regime with one seed."""

    whole: int
    """Iterations of scratch's full schedules, summed over drops."""
    scratch: int
    """Iterations of plain scratch to its final accuracy, summed over drops."""
    scratch_averaged: int
    """The same sum for scratch with averaging."""
    used: int
    """Iterations of all runs of the method `default`."""
    used_all_in: float
    """`used` plus the cost of the evaluations in iterations."""
    net: float
    """Saving against plain scratch: s_scratch of the drops whose run was promoted, minus `used_all_in`."""
    net_averaged: float
    """The same saving against scratch with averaging."""
    net_ledger: float
    """Net saving in the ledger."""
    ledger_error: float
    """The standard error of `net_ledger`, from the ledger."""
    test: float
    """Test accuracy of the models with which the default's runs ended, as a mean over drops."""
    test_scratch: float
    """Mean test accuracy of plain scratch."""
    champion_gaps: tuple[float, ...]
    """Test accuracy of the champion minus the test accuracy of plain scratch, one for each drop."""
    outcomes: tuple[str, ...]
    promoted: int
    start: str


class Estimate(NamedTuple):
    """A mean over `n` seeds, and its standard error (None for a single seed)."""

    mean: float
    error: float | None
    n: int


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean and its standard error."""
    error = stdev(values) / sqrt(len(values)) if len(values) > 1 else None
    return Estimate(fmean(values), error, len(values))


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean of positive values."""
    return exp(fmean(log(value) for value in values))


def first_reaching(curve: Iterable[tuple[int, float]], accuracy: float) -> int | None:
    """Return the first iteration with at least this accuracy, or None."""
    return next((iteration for iteration, value in curve if value >= accuracy), None)


def scratch_baseline(scratch: SuiteRun) -> Baseline:
    """Return a scratch run's final accuracy and the iterations after which it first had it."""
    accuracy = scratch.curve[-1][1]
    return Baseline(accuracy, first_reaching(scratch.curve, accuracy) or scratch.iterations)


def compare(runs: Runs, regime: str, seed: int, method: str, against: str, level: float = 100) -> Comparison | None:
    """Compare the iterations of `method` and `against` to `level` percent of the final accuracy of `against`.

    Sum over all drops. Return None unless both methods have results for every drop.
    """
    comparisons = [
        compare_on_drop(runs, Key(regime, seed, method, drop), against, level) for drop in drops_of(runs, regime, seed)
    ]
    known = [each for each in comparisons if each]
    if not comparisons or len(known) < len(comparisons):
        return None
    scratch, taken, reached, drops = map(sum, zip(*known, strict=True))
    return Comparison(scratch, taken, reached, drops)


def compare_on_drop(runs: Runs, key: Key, against: str, level: float = 100) -> Comparison | None:
    """Compare two methods on one drop. Return None if a result is missing."""
    run, other = runs.get(key), runs.get(key._replace(method=against))
    if run is None or other is None:
        return None
    baseline = scratch_baseline(other)
    at = first_reaching(run.curve, level / 100 * baseline.accuracy)
    return Comparison(
        baseline.iterations, run.iterations + baseline.iterations if at is None else at, int(at is not None), 1
    )


class AdviceFigures(NamedTuple):
    """Iterations to scratch's accuracy of the advised preset, the best preset and scratch, in runs of full length."""

    advice: SuiteAdvice
    taken: int
    """Iterations of the advised preset, or of scratch if that was advised."""
    best: int
    """Iterations of the best preset, or of scratch if that was advised and takes fewer."""
    scratch: int

    @property
    def ratio(self) -> float:
        """Return `taken` divided by `best`."""
        return self.taken / self.best


def advice_figures(runs: Runs, advice: SuiteAdvice) -> AdviceFigures | None:
    """Compare an advised preset with the best preset. Return None unless all presets and scratch have run."""
    presets = {"default": DEFAULT_TO_PLAIN, "naive": NAIVE, "paper": PAPER}
    methods = {**presets, "scratch": PLAIN}
    keys = {choice: Key(advice.regime, advice.seed, method, 2) for choice, method in methods.items()}
    taken = {choice: found.taken for choice, key in keys.items() if (found := compare_on_drop(runs, key, PLAIN))}
    if len(taken) < len(methods):
        return None
    best = min(taken[choice] for choice in {*presets, advice.choice})
    return AdviceFigures(advice, taken[advice.choice], best, taken["scratch"])


def drops_of(runs: Runs, regime: str, seed: int) -> list[int]:
    """Return the drops after the first that the default has retrained on."""
    return sorted(key.drop for key in runs if key[:3] == (regime, seed, DEFAULT))


def seeds_of(runs: Runs, regime: str) -> list[int]:
    """Return the seeds of a regime whose sequences are complete, as `sequence_figures` requires."""
    seeds = sorted({key.seed for key in runs if key.regime == regime})
    return [seed for seed in seeds if sequence_figures(runs, regime, seed)]


def all_in(run: SuiteRun) -> float:
    """Return a run's iterations plus the cost of its evaluations in iterations."""
    return run.iterations + EVALUATED * run.evaluated_images / run.batch_size


def sequence_figures(runs: Runs, regime: str, seed: int) -> SequenceFigures | None:
    """Return the numbers of a sequence, or None unless the default and both baselines have results for every drop."""
    numbers = drops_of(runs, regime, seed)
    found = [
        tuple(runs.get(Key(regime, seed, method, drop)) for method in (DEFAULT, PLAIN, AVERAGED)) for drop in numbers
    ]
    rows = [(own, plain, averaged) for own, plain, averaged in found if own and plain and averaged]
    if not rows or len(rows) < len(found):
        return None
    plain_iterations = [scratch_baseline(plain).iterations for _, plain, _ in rows]
    averaged_iterations = [scratch_baseline(averaged).iterations for _, _, averaged in rows]
    used = sum(all_in(own) for own, _, _ in rows)
    gaps = tuple((own.champion_test_accuracy or 0) - (plain.test_accuracy or 0) for own, plain, _ in rows)

    def credited(baselines: Sequence[int]) -> int:
        return sum(iterations for iterations, (own, _, _) in zip(baselines, rows, strict=True) if own.promoted)

    return SequenceFigures(
        whole=sum(plain.schedule for _, plain, _ in rows),
        scratch=sum(plain_iterations),
        scratch_averaged=sum(averaged_iterations),
        used=sum(own.iterations for own, _, _ in rows),
        used_all_in=used,
        net=credited(plain_iterations) - used,
        net_averaged=credited(averaged_iterations) - used,
        net_ledger=sum(own.savings.net for own, _, _ in rows if own.savings),
        ledger_error=sum(own.savings.standard_error for own, _, _ in rows if own.savings),
        test=fmean(own.test_accuracy or 0 for own, _, _ in rows),
        test_scratch=fmean(plain.test_accuracy or 0 for _, plain, _ in rows),
        champion_gaps=gaps,
        outcomes=tuple(own.outcome for own, _, _ in rows),
        promoted=sum(bool(own.promoted) for own, _, _ in rows),
        start=rows[-1][0].start,
    )


class RegimeFigures(NamedTuple):
    """A regime's sequences and comparisons, by seed."""

    name: str
    sequences: dict[int, SequenceFigures]
    comparisons: dict[tuple[str, str, int], dict[int, Comparison]]
    """Comparisons by method, baseline and level, and then by seed."""

    def mean(self, figure: Callable[[SequenceFigures], float]) -> Estimate:
        """Return the mean of a number over seeds."""
        return estimate([figure(sequence) for sequence in self.sequences.values()])

    def speed_up(self, method: str, baseline: str, level: int = 100, seeds: Collection[int] = ()) -> float | None:
        """Return L_r: scratch's iterations divided by the method's, both summed over seeds, or None without results.

        Only the given seeds count. If `seeds` is empty, all seeds of the method's runs count.
        """
        by_seed = self._comparisons(method, baseline, level)
        chosen = [each for seed, each in by_seed.items() if not seeds or seed in seeds]
        return sum(each.scratch for each in chosen) / sum(each.taken for each in chosen) if chosen else None

    def reached(self, method: str, baseline: str, level: int = 100) -> tuple[int, int]:
        """Return the number of drops on which the accuracy was reached, and the number of drops compared."""
        comparisons = self._comparisons(method, baseline, level).values()
        return sum(each.reached for each in comparisons), sum(each.drops for each in comparisons)

    def shared_seeds(self, methods: Iterable[str], baseline: str) -> set[int]:
        """Return the seeds with which all of these methods were run. Methods that were never run are ignored."""
        each = [comparisons.keys() for method in methods if (comparisons := self._comparisons(method, baseline, 100))]
        return set(each[0]).intersection(*each[1:]) if each else set()

    def _comparisons(self, method: str, baseline: str, level: int) -> dict[int, Comparison]:
        return self.comparisons.get((method, baseline, level), {})


COMPARISONS = (
    (DEFAULT_TO_PLAIN, PLAIN),
    (DEFAULT_TO_AVERAGED, AVERAGED),
    (NAIVE, PLAIN),
    (PAPER, PLAIN),
    (AVERAGED, PLAIN),
)
"""The methods, each with the scratch run that it is compared with."""


def regime_figures(runs: Runs, regime: str, methods: Sequence[str] = ()) -> RegimeFigures | None:
    """Return a regime's numbers, or None before one sequence is complete.

    `methods` are the variants to compare with plain scratch.
    """
    seeds = seeds_of(runs, regime)
    if not seeds:
        return None
    pairs = [*COMPARISONS, *((method, PLAIN) for method in methods)]
    comparisons = {
        (method, baseline, level): {
            seed: found for seed in seeds if (found := compare(runs, regime, seed, method, baseline, level))
        }
        for method, baseline in pairs
        for level in (99, 100)
    }
    sequences = {seed: sequence for seed in seeds if (sequence := sequence_figures(runs, regime, seed))}
    return RegimeFigures(regime, sequences, comparisons)
