"""The goals of the suite, each with what was measured and whether it is met."""

from collections.abc import Sequence
from typing import NamedTuple

from retrain.experiments.regimes.figures import Advised, RegimeFigures, estimate, geometric_mean
from retrain.experiments.regimes.methods import AVERAGED, DEFAULT_TO_AVERAGED, DEFAULT_TO_PLAIN, NAIVE, PAPER, PLAIN
from retrain.experiments.regimes.settings import Regime

GAP = 0.005
"""How far a test accuracy may lie below scratch's."""

WRONG_SHARE = 0.1
"""Of the lives in which the advised method may take much longer than the best one."""
ADVISED_RATIO = 1.15
"""The advised method's iterations over the best one's, at most."""

Told = tuple[Regime, RegimeFigures]


class Goal(NamedTuple):
    """One row of the first table."""

    goal: str
    measured: str
    met: bool | None
    """None: nothing was measured."""


def check_goals(told: Sequence[Told], advised: Sequence[Advised] = ()) -> list[Goal]:
    """Return all goals of the suite."""
    journeys = [(regime, found) for regime, found in told if regime.kind == "journey"]
    return [
        _net_saving(told),
        _test_accuracy(told),
        _geometric_mean(told, DEFAULT_TO_PLAIN, PLAIN, "plain scratch", 4),
        _geometric_mean(told, DEFAULT_TO_AVERAGED, AVERAGED, "scratch with averaging", 2.5),
        _fitted(told),
        _never_slower(told),
        _journey_share(journeys),
        _journey_champions(journeys),
        _ledger_agrees(told),
        _advice_is_right(advised),
    ]


def _each(goal: str, failing: list[str], count: int, what: str) -> Goal:
    """Return a goal that every regime has to meet."""
    if not count:
        return Goal(goal, "not run", None)
    measured = f"{count - len(failing)} of {count} {what}"
    return Goal(goal, measured + (f"; not {', '.join(failing)}" if failing else ""), not failing)


def _net_saving(told: Sequence[Told]) -> Goal:
    failing = [
        regime.name
        for regime, found in told
        if min(found.mean(lambda life: life.net_ledger).mean, found.mean(lambda life: life.net).mean) <= 0
    ]
    goal = "The default's net saving over the life is above zero in every regime, by the ledger and independently"
    return _each(goal, failing, len(told), "regimes")


def _test_accuracy(told: Sequence[Told]) -> Goal:
    failing = [r.name for r, found in told if found.mean(lambda life: life.test - life.test_scratch).mean < -GAP]
    goal = "Its stopped test accuracy is at most 0.5 points below plain scratch's in every regime"
    return _each(goal, failing, len(told), "regimes")


def _geometric_mean(told: Sequence[Told], method: str, bar: str, name: str, least: float) -> Goal:
    goal = f"The geometric mean of L_100 against {name} is at least {least:g}"
    found = [speed_up for _, figures in told if (speed_up := figures.speed_up(method, bar))]
    if not found:
        return Goal(goal, "not run", None)
    mean = geometric_mean(found)
    return Goal(goal, f"{mean:.2f} over {len(found)} regimes", mean >= least)


def _fitted(told: Sequence[Told]) -> Goal:
    goal = "In fitted regimes with 100 images a class and more, L_100 against plain scratch is at least 8"
    raced = [(r.name, s) for r, f in told if r.is_fitted and (s := f.speed_up(DEFAULT_TO_PLAIN, PLAIN))]
    return _each(goal, [f"{name} ({speed_up:.1f})" for name, speed_up in raced if speed_up < 8], len(raced), "regimes")


def _never_slower(told: Sequence[Told]) -> Goal:
    goal = "The default is never more than 10% slower than the better of naive and paper"
    failing, count = [], 0
    for regime, found in told:
        seeds = found.shared_seeds((DEFAULT_TO_PLAIN, NAIVE, PAPER), PLAIN)
        own = found.speed_up(DEFAULT_TO_PLAIN, PLAIN, seeds=seeds)
        others = [each for method in (NAIVE, PAPER) if (each := found.speed_up(method, PLAIN, seeds=seeds))]
        if own and others:
            count += 1
            if max(others) / own > 1.1:
                failing.append(f"{regime.name} ({max(others) / own:.2f} times the iterations)")
    return _each(goal, failing, count, "regimes")


def _journey_share(journeys: Sequence[Told]) -> Goal:
    goal = "Every journey takes at most 45% of the iterations that scratch takes to its accuracy, evaluations included"
    shares = [(r.name, f.mean(lambda life: life.used_all_in / life.scratch).mean) for r, f in journeys]
    if not shares:
        return Goal(goal, "not run", None)
    measured = "; ".join(f"{name} {share:.0%}" for name, share in shares)
    return Goal(goal, measured, all(share <= 0.45 for _, share in shares))


def _journey_champions(journeys: Sequence[Told]) -> Goal:
    goal = "Every champion of a journey is at most 0.5 points below plain scratch on test (mean over seeds)"
    failing = [
        f"{regime.name} drop {number} ({mean * 100:+.1f} points)"
        for regime, found in journeys
        for number, gaps in enumerate(zip(*(life.champion_gaps for life in found.lives.values()), strict=True), 2)
        if (mean := estimate(gaps).mean) < -GAP
    ]
    count = sum(len(next(iter(found.lives.values())).champion_gaps) for _, found in journeys)
    return _each(goal, failing, count, "champions")


def _ledger_agrees(told: Sequence[Told]) -> Goal:
    goal = "The ledger's net saving is within twice its stated standard error of the independent one"
    lives = [(r.name, seed, life) for r, f in told for seed, life in f.lives.items()]
    failing = [
        f"{name} seed {seed}"
        for name, seed, life in lives
        if abs(life.net_ledger - life.net_averaged) > 2 * life.ledger_error + 0.5
    ]
    return _each(goal, failing, len(lives), "lives")


def _advice_is_right(advised: Sequence[Advised]) -> Goal:
    goal = "`retrain study recommend` names a preset within 15% of the best one's iterations in at least 9 of 10 lives"
    wrong = [
        f"{each.advice.regime} seed {each.advice.seed} ({each.ratio:.2f})"
        for each in advised
        if each.ratio > ADVISED_RATIO
    ]
    return _each(goal, wrong, len(advised), "lives")._replace(
        met=len(wrong) <= WRONG_SHARE * len(advised) if advised else None
    )
