"""The suite's page, made from its results and regime files alone."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from retrain.errors import StudyError
from retrain.experiments.regimes.figures import (
    Advised,
    Estimate,
    RegimeFigures,
    Runs,
    geometric_mean,
    judge_advice,
    regime_figures,
)
from retrain.experiments.regimes.goals import Told, check_goals
from retrain.experiments.regimes.methods import (
    AVERAGED,
    DEFAULT_TO_AVERAGED,
    DEFAULT_TO_PLAIN,
    NAIVE,
    PAPER,
    PLAIN,
    VARIANTS,
)
from retrain.experiments.regimes.picture import draw_regimes, save_picture
from retrain.experiments.regimes.records import ADVICE_FILE, FILE, SuiteAdvice, read_advice, read_runs
from retrain.experiments.regimes.settings import Regime
from retrain.utils.text import pluralize

MET = {True: "yes", False: "**no**", None: "-"}
NOTES = "<!-- Notes below this line are kept. -->"


def write_page(folder: Path, output: Path, regimes: Sequence[Regime]) -> str:
    """Write the page, its picture and a copy of the results; say what was written. Raises `StudyError` if none are."""
    runs, advice = read_runs(folder), read_advice(folder)
    told = tell_regimes(runs, regimes)
    if not told:
        raise StudyError(f"{folder / FILE}: no regime has one complete seed yet; run the suite first")
    beside = output.with_suffix("")
    save_picture(draw_regimes(told), beside / "regimes")
    for file in (FILE, ADVICE_FILE):
        if (folder / file).exists() and (folder / file).resolve() != (beside / file).resolve():
            shutil.copyfile(folder / file, beside / file)
    notes = output.read_text(encoding="utf-8").partition(NOTES)[2] if output.exists() else "\n"
    output.write_text(
        make_page(runs, told, beside.name, _advised(runs, advice)) + f"\n{NOTES}{notes}", encoding="utf-8"
    )
    return f"{output}: {len(told)} of {len(regimes)} regimes, {len(runs)} results"


def tell_regimes(runs: Runs, regimes: Sequence[Regime]) -> list[Told]:
    """Return the regimes that have a complete life, with their figures; journeys last."""
    ordered = sorted(regimes, key=lambda regime: regime.kind == "journey")
    return [(regime, found) for regime in ordered if (found := regime_figures(runs, regime.name, list(VARIANTS)))]


def _advised(runs: Runs, advice: Mapping[tuple[str, int], SuiteAdvice]) -> list[Advised]:
    return [found for _, each in sorted(advice.items()) if (found := judge_advice(runs, each))]


def make_page(runs: Runs, told: Sequence[Told], beside: str, advised: Sequence[Advised] = ()) -> str:
    """Return the page, Markdown."""
    goals = [[goal.goal, goal.measured, MET[goal.met]] for goal in check_goals(told, advised)]
    sections = [
        "# What the continuous run saves, regime by regime",
        "For readers who want to know what the default settings save on data like their own, and where they save "
        "little. "
        "Each regime is a file in `studies/regimes/`; the figures come from "
        f"[`{beside}/{FILE}`]({beside}/{FILE}).",
        _table(["goal", "measured", "met?"], goals),
        f"![L_100 and test accuracy in every regime]({beside}/regimes.svg)",
        "## Every regime",
        "Means over seeds. L_r is how many times sooner than scratch the default reaches r percent of scratch's "
        "accuracy on val (Verwimp et al., eq. 2), with that accuracy as its target; a run that never gets there is "
        "charged all its iterations and scratch's, and (2/3) says that it got there on two drops of three. Over "
        "several drops and seeds, iterations are summed; naive and paper have fewer seeds in some regimes. Scratch "
        "with averaging is the fairer bar: it promotes the same average of weights as the default. Higher is better.",
        _table(*_speed_ups(told)),
        "## The life with default settings",
        "The target is carried from the first drop, and nothing is calibrated. Used: iterations of all attempts with "
        "evaluations, as a share of what plain scratch takes to its accuracy, and of scratch's whole trainings (lower "
        "is better). Net saving: by the ledger, with its stated standard error, and by independent arithmetic "
        "(`retrain/experiments/regimes/figures.py`) against both bars, in iterations; of a drop whose run was refused, "
        "all is a loss. Test accuracies are of the models that the runs stopped with, means over drops.",
        _table(*_lives(told)),
        *_ablation(told),
        *_recommended(advised),
        "## The regimes",
        "\n".join(f"- **{regime.title}** (`{regime.name}`): {regime.why}" for regime, _ in told),
        "## To repeat it",
        "`python -m retrain.experiments.regimes run --out FOLDER --jobs 2`, then "
        "`python -m retrain.experiments.regimes report FOLDER`. " + _made_with(runs),
    ]
    return "\n\n".join(sections) + "\n"


def _speed_ups(told: Sequence[Told]) -> tuple[list[str], list[list[str]]]:
    head = ["regime", "seeds", "s_scratch", "s_scratch with averaging", "L_99", "L_100"]
    head += ["L_99, averaged bar", "L_100, averaged bar", "naive L_100", "paper L_100", "scratch with averaging L_100"]
    columns = [
        (DEFAULT_TO_PLAIN, PLAIN, 99),
        (DEFAULT_TO_PLAIN, PLAIN, 100),
        (DEFAULT_TO_AVERAGED, AVERAGED, 99),
        (DEFAULT_TO_AVERAGED, AVERAGED, 100),
        (NAIVE, PLAIN, 100),
        (PAPER, PLAIN, 100),
        (AVERAGED, PLAIN, 100),
    ]
    rows = [
        [
            regime.title,
            str(len(found.lives)),
            _iterations(found.mean(lambda life: life.scratch)),
            _iterations(found.mean(lambda life: life.scratch_averaged)),
            *(_speed_up(found, *column) for column in columns),
        ]
        for regime, found in told
    ]
    means = [[s for _, found in told if (s := found.speed_up(*column))] for column in columns]
    last = ["**geometric mean**", "", "", "", *(f"**{geometric_mean(each):.2f}**" if each else "-" for each in means)]
    return head, [*rows, last]


def _lives(told: Sequence[Told]) -> tuple[list[str], list[list[str]]]:
    head = ["regime", "used of s_scratch", "of the whole", "net, ledger", "its error", "net, plain bar"]
    head += ["net, averaged bar", "test, default", "test, scratch", "difference", "how runs ended", "promoted"]
    rows = [
        [
            regime.title,
            _percent(found.mean(lambda life: life.used_all_in / life.scratch)),
            _percent(found.mean(lambda life: life.used_all_in / life.whole)),
            _iterations(found.mean(lambda life: life.net_ledger)),
            _iterations(found.mean(lambda life: life.ledger_error)),
            _iterations(found.mean(lambda life: life.net)),
            _iterations(found.mean(lambda life: life.net_averaged)),
            _percent(found.mean(lambda life: life.test), 1),
            _percent(found.mean(lambda life: life.test_scratch), 1),
            _points(found.mean(lambda life: 100 * (life.test - life.test_scratch))),
            _outcomes(found),
            f"{sum(life.promoted for life in found.lives.values())} of "
            f"{sum(len(life.outcomes) for life in found.lives.values())}",
        ]
        for regime, found in told
    ]
    return head, rows


def _ablation(told: Sequence[Told]) -> Iterator[str]:
    """Yield the table of variants, over the regimes in which they were run, with the seeds that all were run with."""
    columns = [DEFAULT_TO_PLAIN, NAIVE, *VARIANTS]
    rows = []
    for regime, found in told:
        if found.shared_seeds(VARIANTS, PLAIN):
            seeds = found.shared_seeds(columns, PLAIN)
            title = f"{regime.title} ({pluralize(len(seeds), 'seed')})"
            rows.append((title, [found.speed_up(method, PLAIN, seeds=seeds) for method in columns]))
    if not rows:
        return
    yield "## What each idea gives"
    yield (
        "L_100 against plain scratch, as above: each idea taken out of the default, and each added to the naive start. "
        "The mean is geometric."
    )
    cells = {method: [speed_ups[place] for _, speed_ups in rows] for place, method in enumerate(columns)}
    lines = [
        [method, *(f"{s:.2f}" if s else "-" for s in found), f"**{geometric_mean(known):.2f}**" if known else "-"]
        for method, found in cells.items()
        if (known := [s for s in found if s]) or not found
    ]
    yield _table(["method", *(title for title, _ in rows), "mean"], lines)


def _recommended(advised: Sequence[Advised]) -> Iterator[str]:
    """Yield the table of what `retrain study recommend` says."""
    if not advised:
        return
    yield "## What `retrain study recommend` says"
    yield (
        "Asked when the second drop had landed, with scratch's accuracy measured. It races the presets default, naive "
        "and paper for a quarter of scratch's training in all. Advised, best and scratch: iterations to scratch's "
        "accuracy of what it named, of the best preset, and of scratch itself, in runs of full length; a run that "
        "never gets there is charged scratch's too."
    )
    rows = [
        [
            each.advice.regime,
            str(each.advice.seed),
            each.advice.choice,
            f"{each.taken:,}",
            f"{each.best:,}",
            f"{each.ratio:.2f}",
            f"{each.scratch:,}",
            f"{each.advice.iterations / each.advice.schedule:.0%}",
        ]
        for each in advised
    ]
    titles = ["regime", "seed", "it says", "advised", "best", "ratio", "scratch", "races, of scratch's training"]
    yield _table(titles, rows)


def _speed_up(found: RegimeFigures, method: str, bar: str, level: int) -> str:
    speed_up, (reached, drops) = found.speed_up(method, bar, level), found.reached(method, bar, level)
    if speed_up is None:
        return "-"
    return f"{speed_up:.2f}" + ("" if reached == drops else f" ({reached}/{drops})")


def _iterations(value: Estimate) -> str:
    return f"{value.mean:,.0f}" + (f" ± {value.error:,.0f}" if value.error else "")


def _percent(value: Estimate, digits: int = 0) -> str:
    return f"{100 * value.mean:.{digits}f}%" + (f" ± {100 * value.error:.{digits}f}" if value.error else "")


def _points(value: Estimate) -> str:
    return f"{value.mean:+.1f}" + (f" ± {value.error:.1f}" if value.error else "")


def _outcomes(found: RegimeFigures) -> str:
    ended = [outcome for life in found.lives.values() for outcome in life.outcomes]
    return ", ".join(f"{ended.count(outcome)} {outcome}" for outcome in dict.fromkeys(ended))


def _made_with(runs: Runs) -> str:
    machines = sorted({f"{run.machine.device}, torch {run.machine.torch}" for run in runs.values()})
    commits = sorted({run.commit for run in runs.values()})
    hours = sum(run.device_seconds for run in runs.values()) / 3600
    return (
        f"{len(runs)} results, {hours:.1f} hours of one thread each, on {'; '.join(machines)}; "
        f"commit {', '.join(commits)}."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
