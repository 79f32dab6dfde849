"""What the suite found, as figures: pure functions over its results, by arithmetic of their own.

Nothing here uses the product's accounting, so that the ledger's figures can be checked against it. Evaluations are
charged at a third of a trained image. A run that never reaches a bar is followed by training from scratch: it is
charged its own iterations and scratch's.
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
"""An evaluated image's cost, in trained images: the forward pass without the backward."""

Runs = Mapping[Key, SuiteRun]


class Bar(NamedTuple):
    """What a scratch run ended with, and when its curve was first there (Verwimp et al., eq. 1)."""

    accuracy: float
    iterations: int


class Race(NamedTuple):
    """What a method took to a bar over all drops of a life, and what scratch took."""

    scratch: int
    taken: int
    """Where the bar was never reached: all iterations of the run, and scratch's."""
    reached: int
    """On how many drops the bar was reached."""
    drops: int

    @property
    def speed_up(self) -> float:
        """L_r (eq. 2), over all drops."""
        return self.scratch / self.taken


class Life(NamedTuple):
    """The figures of one regime with one seed."""

    whole: int
    """Iterations of scratch's whole trainings on every dataset."""
    scratch: int
    """Of plain scratch to its own accuracy, summed over drops."""
    scratch_averaged: int
    """The same of scratch with averaging."""
    used: int
    """Of the default, all attempts."""
    used_all_in: float
    """Evaluations included."""
    net: float
    """Saved against plain scratch: s_scratch of the drops whose run was promoted, less `used_all_in`."""
    net_averaged: float
    """The same against scratch with averaging."""
    net_ledger: float
    """What the product's ledger says."""
    ledger_error: float
    """The standard error that the ledger states."""
    test: float
    """Test accuracy of the models that the default's runs stopped with, the mean over drops."""
    test_champion: float
    """Of the champions after each run."""
    test_scratch: float
    """Of plain scratch."""
    champion_gaps: tuple[float, ...]
    """Champion less plain scratch, drop by drop."""
    final_val: float
    outcomes: tuple[str, ...]
    promoted: int
    start: str


class Estimate(NamedTuple):
    """A mean over `n` seeds, and its standard error where there are two and more."""

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


def bar_of(scratch: SuiteRun) -> Bar:
    """Return what a scratch run ended with, and when it was first there."""
    accuracy = scratch.curve[-1][1]
    return Bar(accuracy, first_reaching(scratch.curve, accuracy) or scratch.iterations)


def race(runs: Runs, regime: str, seed: int, method: str, against: str, level: float = 100) -> Race | None:
    """Return what a method took to `level` percent of a bar, over all drops; None unless all of both runs are there."""
    races = [race_on(runs, Key(regime, seed, method, drop), against, level) for drop in drops_of(runs, regime, seed)]
    known = [each for each in races if each]
    if not races or len(known) < len(races):
        return None
    scratch, taken, reached, drops = map(sum, zip(*known, strict=True))
    return Race(scratch, taken, reached, drops)


def race_on(runs: Runs, key: Key, against: str, level: float = 100) -> Race | None:
    """Return what a method took on one drop."""
    run, other = runs.get(key), runs.get(key._replace(method=against))
    if run is None or other is None:
        return None
    bar = bar_of(other)
    at = first_reaching(run.curve, level / 100 * bar.accuracy)
    return Race(bar.iterations, run.iterations + bar.iterations if at is None else at, int(at is not None), 1)


class Advised(NamedTuple):
    """What advice was worth: iterations to scratch's accuracy, in runs of full length."""

    advice: SuiteAdvice
    taken: int
    """Of what was advised."""
    best: int
    """Of the best preset, or of scratch if that was advised and is sooner."""
    scratch: int

    @property
    def ratio(self) -> float:
        """How many times as many as the best one's."""
        return self.taken / self.best


def judge_advice(runs: Runs, advice: SuiteAdvice) -> Advised | None:
    """Return what advice was worth; None if not all presets and scratch have run."""
    presets = {"default": DEFAULT_TO_PLAIN, "naive": NAIVE, "paper": PAPER}
    methods = {**presets, "scratch": PLAIN}
    keys = {choice: Key(advice.regime, advice.seed, method, 2) for choice, method in methods.items()}
    taken = {choice: found.taken for choice, key in keys.items() if (found := race_on(runs, key, PLAIN))}
    if len(taken) < len(methods):
        return None
    best = min(taken[choice] for choice in {*presets, advice.choice})
    return Advised(advice, taken[advice.choice], best, taken["scratch"])


def drops_of(runs: Runs, regime: str, seed: int) -> list[int]:
    """Return the drops after the first that the default has retrained on."""
    return sorted(key.drop for key in runs if key[:3] == (regime, seed, DEFAULT))


def seeds_of(runs: Runs, regime: str) -> list[int]:
    """Return the seeds with which a regime's life is complete enough to be told."""
    seeds = sorted({key.seed for key in runs if key.regime == regime})
    return [seed for seed in seeds if life_of(runs, regime, seed)]


def all_in(run: SuiteRun) -> float:
    """Return a run's iterations with its evaluations."""
    return run.iterations + EVALUATED * run.evaluated_images / run.batch_size


def life_of(runs: Runs, regime: str, seed: int) -> Life | None:
    """Return the figures of a life; None unless the default and both bars are there for every drop."""
    numbers = drops_of(runs, regime, seed)
    found = [
        tuple(runs.get(Key(regime, seed, method, drop)) for method in (DEFAULT, PLAIN, AVERAGED)) for drop in numbers
    ]
    rows = [(own, plain, averaged) for own, plain, averaged in found if own and plain and averaged]
    if not rows or len(rows) < len(found):
        return None
    plain_bars = [bar_of(plain).iterations for _, plain, _ in rows]
    averaged_bars = [bar_of(averaged).iterations for _, _, averaged in rows]
    used = sum(all_in(own) for own, _, _ in rows)
    gaps = tuple((own.champion_test_accuracy or 0) - (plain.test_accuracy or 0) for own, plain, _ in rows)

    def delivered(bars: Sequence[int]) -> int:
        return sum(bar for bar, (own, _, _) in zip(bars, rows, strict=True) if own.promoted)

    return Life(
        whole=sum(plain.schedule for _, plain, _ in rows),
        scratch=sum(plain_bars),
        scratch_averaged=sum(averaged_bars),
        used=sum(own.iterations for own, _, _ in rows),
        used_all_in=used,
        net=delivered(plain_bars) - used,
        net_averaged=delivered(averaged_bars) - used,
        net_ledger=sum(own.savings.net for own, _, _ in rows if own.savings),
        ledger_error=sum(own.savings.standard_error for own, _, _ in rows if own.savings),
        test=fmean(own.test_accuracy or 0 for own, _, _ in rows),
        test_champion=fmean(own.champion_test_accuracy or 0 for own, _, _ in rows),
        test_scratch=fmean(plain.test_accuracy or 0 for _, plain, _ in rows),
        champion_gaps=gaps,
        final_val=fmean(own.final_accuracy for own, _, _ in rows),
        outcomes=tuple(own.outcome for own, _, _ in rows),
        promoted=sum(bool(own.promoted) for own, _, _ in rows),
        start=rows[-1][0].start,
    )


class RegimeFigures(NamedTuple):
    """A regime's lives and races, by seed."""

    name: str
    lives: dict[int, Life]
    races: dict[tuple[str, str, int], dict[int, Race]]
    """By method, bar and level, and then by seed."""

    def mean(self, figure: Callable[[Life], float]) -> Estimate:
        """Return the mean of a figure over seeds."""
        return estimate([figure(life) for life in self.lives.values()])

    def speed_up(self, method: str, bar: str, level: int = 100, seeds: Collection[int] = ()) -> float | None:
        """Return L_r: scratch's iterations over the method's, both summed over seeds; None without a race.

        Only these `seeds` count, or all that the method was run with.
        """
        races = [race for seed, race in self._races(method, bar, level).items() if not seeds or seed in seeds]
        return sum(race.scratch for race in races) / sum(race.taken for race in races) if races else None

    def reached(self, method: str, bar: str, level: int = 100) -> tuple[int, int]:
        """Return on how many drops the bar was reached, and on how many it was raced to."""
        races = self._races(method, bar, level).values()
        return sum(race.reached for race in races), sum(race.drops for race in races)

    def shared_seeds(self, methods: Iterable[str], bar: str) -> set[int]:
        """Return the seeds that all of these methods were run with, without the methods that were not run at all."""
        each = [races.keys() for method in methods if (races := self._races(method, bar, 100))]
        return set(each[0]).intersection(*each[1:]) if each else set()

    def _races(self, method: str, bar: str, level: int) -> dict[int, Race]:
        return self.races.get((method, bar, level), {})


RACES = (
    (DEFAULT_TO_PLAIN, PLAIN),
    (DEFAULT_TO_AVERAGED, AVERAGED),
    (NAIVE, PLAIN),
    (PAPER, PLAIN),
    (AVERAGED, PLAIN),
)
"""Which method is raced to which bar."""


def regime_figures(runs: Runs, regime: str, methods: Sequence[str] = ()) -> RegimeFigures | None:
    """Return a regime's figures; None before one life is complete. `methods`: variants raced to plain scratch's bar."""
    seeds = seeds_of(runs, regime)
    if not seeds:
        return None
    pairs = [*RACES, *((method, PLAIN) for method in methods)]
    races = {
        (method, bar, level): {seed: found for seed in seeds if (found := race(runs, regime, seed, method, bar, level))}
        for method, bar in pairs
        for level in (99, 100)
    }
    lives = {seed: life for seed in seeds if (life := life_of(runs, regime, seed))}
    return RegimeFigures(regime, lives, races)
