"""The goals of the suite, each with what was measured and whether it is met."""

from collections.abc import Sequence
from typing import NamedTuple

from retrain.experiments.regimes.figures import AdviceFigures, RegimeFigures, estimate, geometric_mean
from retrain.experiments.regimes.methods import AVERAGED, DEFAULT_TO_AVERAGED, DEFAULT_TO_PLAIN, NAIVE, PAPER, PLAIN
from retrain.experiments.regimes.settings import Regime

GAP = 0.005
"""Largest allowed distance of a test accuracy below scratch's, as a share: 0.5 percentage points."""

WRONG_SHARE = 0.1
"""Largest allowed share of sequences in which the advised preset exceeds `ADVISED_RATIO`."""
ADVISED_RATIO = 1.15
"""Largest allowed ratio of the advised preset's iterations to the best preset's."""

RegimeResult = tuple[Regime, RegimeFigures]


class Goal(NamedTuple):
    """One row of the first table of the suite's page."""

    goal: str
    measured: str
    met: bool | None
    """Whether the goal is met. None: nothing was measured."""


def check_goals(results: Sequence[RegimeResult], advised: Sequence[AdviceFigures] = ()) -> list[Goal]:
    """Return all goals of the suite."""
    journeys = [(regime, found) for regime, found in results if regime.kind == "journey"]
    return [
        _net_saving(results),
        _test_accuracy(results),
        _geometric_mean(results, DEFAULT_TO_PLAIN, PLAIN, "plain scratch", 4),
        _geometric_mean(results, DEFAULT_TO_AVERAGED, AVERAGED, "scratch with averaging", 2.5),
        _fitted(results),
        _never_slower(results),
        _journey_share(journeys),
        _journey_champions(journeys),
        _ledger_agrees(results),
        _advice_is_right(advised),
    ]


def _each(goal: str, failing: list[str], count: int, what: str) -> Goal:
    """Return a goal that `count` regimes, sequences or champions must meet. `failing` lists the names of failures."""
    if not count:
        return Goal(goal, "not run", None)
    measured = f"{count - len(failing)} of {count} {what}"
    return Goal(goal, measured + (f"; missed by {', '.join(failing)}" if failing else ""), not failing)


def _net_saving(results: Sequence[RegimeResult]) -> Goal:
    failing = [
        regime.name
        for regime, found in results
        if min(found.mean(lambda each: each.net_ledger).mean, found.mean(lambda each: each.net).mean) <= 0
    ]
    goal = "The default's net saving over all drops is above zero in every regime, both in the ledger and recomputed"
    return _each(goal, failing, len(results), "regimes")


def _test_accuracy(results: Sequence[RegimeResult]) -> Goal:
    failing = [r.name for r, found in results if found.mean(lambda each: each.test - each.test_scratch).mean < -GAP]
    goal = "The default's mean test accuracy is at most 0.5 points below plain scratch's in every regime"
    return _each(goal, failing, len(results), "regimes")


def _geometric_mean(results: Sequence[RegimeResult], method: str, baseline: str, name: str, least: float) -> Goal:
    goal = f"The geometric mean of L_100 against {name} is at least {least:g}"
    found = [speed_up for _, figures in results if (speed_up := figures.speed_up(method, baseline))]
    if not found:
        return Goal(goal, "not run", None)
    mean = geometric_mean(found)
    return Goal(goal, f"{mean:.2f} over {len(found)} regimes", mean >= least)


def _fitted(results: Sequence[RegimeResult]) -> Goal:
    goal = "L_100 against plain scratch is at least 8 if scratch fits its data and a class has 100 images or more"
    found = [(r.name, s) for r, f in results if r.is_fitted and (s := f.speed_up(DEFAULT_TO_PLAIN, PLAIN))]
    failing = [f"{name} ({speed_up:.1f})" for name, speed_up in found if speed_up < 8]
    return _each(goal, failing, len(found), "regimes")


def _never_slower(results: Sequence[RegimeResult]) -> Goal:
    goal = (
        "The default takes at most 10% more iterations than the better of naive and paper, in each regime in which "
        "these were run"
    )
    failing, count = [], 0
    for regime, found in results:
        seeds = found.shared_seeds((DEFAULT_TO_PLAIN, NAIVE, PAPER), PLAIN)
        own = found.speed_up(DEFAULT_TO_PLAIN, PLAIN, seeds=seeds)
        others = [each for method in (NAIVE, PAPER) if (each := found.speed_up(method, PLAIN, seeds=seeds))]
        if own and others:
            count += 1
            if max(others) / own > 1.1:
                failing.append(f"{regime.name} ({max(others) / own:.2f} times the iterations)")
    return _each(goal, failing, count, "regimes")


def _journey_share(journeys: Sequence[RegimeResult]) -> Goal:
    goal = "In every journey the default takes at most 45% of s_scratch, including evaluations"
    shares = [(r.name, f.mean(lambda each: each.used_all_in / each.scratch).mean) for r, f in journeys]
    if not shares:
        return Goal(goal, "not run", None)
    measured = "; ".join(f"{name} {share:.0%}" for name, share in shares)
    return Goal(goal, measured, all(share <= 0.45 for _, share in shares))


def _journey_champions(journeys: Sequence[RegimeResult]) -> Goal:
    goal = "Every champion of a journey is at most 0.5 points below plain scratch on test, on average over seeds"
    failing = [
        f"{regime.name} drop {number} ({mean * 100:+.1f} points)"
        for regime, found in journeys
        for number, gaps in enumerate(zip(*(each.champion_gaps for each in found.sequences.values()), strict=True), 2)
        if (mean := estimate(gaps).mean) < -GAP
    ]
    count = sum(len(next(iter(found.sequences.values())).champion_gaps) for _, found in journeys)
    return _each(goal, failing, count, "champions")


def _ledger_agrees(results: Sequence[RegimeResult]) -> Goal:
    goal = "The ledger's net saving differs from the recomputed net saving by at most twice the ledger's standard error"
    sequences = [(r.name, seed, sequence) for r, f in results for seed, sequence in f.sequences.items()]
    failing = [
        f"{name} seed {seed}"
        for name, seed, sequence in sequences
        if abs(sequence.net_ledger - sequence.net_averaged) > 2 * sequence.ledger_error + 0.5
    ]
    return _each(goal, failing, len(sequences), "sequences")


def _advice_is_right(advised: Sequence[AdviceFigures]) -> Goal:
    goal = (
        "`retrain study recommend` advises a preset that takes at most 15% more iterations than the best preset, in "
        "at least 9 of 10 sequences"
    )
    wrong = [
        f"{each.advice.regime} seed {each.advice.seed} ({each.ratio:.2f})"
        for each in advised
        if each.ratio > ADVISED_RATIO
    ]
    return _each(goal, wrong, len(advised), "sequences")._replace(
        met=len(wrong) <= WRONG_SHARE * len(advised) if advised else None
    )
