"""Write the suite's page only from its results and regime files."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from retrain.errors import StudyError
from retrain.experiments.chart_style import save_chart
from retrain.experiments.page import markdown_table
from retrain.experiments.regimes.figures import (
    AdviceFigures,
    Estimate,
    RegimeFigures,
    Runs,
    advice_figures,
    geometric_mean,
    regime_figures,
)
from retrain.experiments.regimes.goals import RegimeResult, check_goals
from retrain.experiments.regimes.methods import (
    AVERAGED,
    DEFAULT_TO_AVERAGED,
    DEFAULT_TO_PLAIN,
    NAIVE,
    PAPER,
    PLAIN,
    VARIANTS,
)
from retrain.experiments.regimes.picture import draw_regimes
from retrain.experiments.regimes.records import ADVICE_FILE, FILE, SuiteAdvice, read_advice, read_runs
from retrain.experiments.regimes.settings import Regime
from retrain.utils.text import pluralize

MET = {True: "yes", False: "**no**", None: "-"}
NOTES = "<!-- Notes below this line are kept. -->"
LABELS = {DEFAULT_TO_PLAIN: "default"}


def write_page(folder: Path, output: Path, regimes: Sequence[Regime]) -> str:
    """Write the page, its picture and a copy of the results, and return a summary.

    Raises `StudyError` without results.
    """
    runs, advice = read_runs(folder), read_advice(folder)
    results = collect_regimes(runs, regimes)
    if not results:
        raise StudyError(f"{folder / FILE}: no regime has results for all drops of any seed: run the suite first")
    copies = output.with_suffix("")
    save_chart(draw_regimes(results), copies / "regimes", scale=2)
    for file in (FILE, ADVICE_FILE):
        if (folder / file).exists() and (folder / file).resolve() != (copies / file).resolve():
            shutil.copyfile(folder / file, copies / file)
    notes = output.read_text(encoding="utf-8").partition(NOTES)[2] if output.exists() else "\n"
    output.write_text(
        make_page(runs, results, copies.name, _advised(runs, advice)) + f"\n{NOTES}{notes}", encoding="utf-8"
    )
    return f"{output}: {len(results)} of {len(regimes)} regimes, {len(runs)} results"


def collect_regimes(runs: Runs, regimes: Sequence[Regime]) -> list[RegimeResult]:
    """Return the numbers of the regimes that have a complete sequence. Journeys come last."""
    ordered = sorted(regimes, key=lambda regime: regime.kind == "journey")
    return [(regime, found) for regime in ordered if (found := regime_figures(runs, regime.name, list(VARIANTS)))]


def _advised(runs: Runs, advice: Mapping[tuple[str, int], SuiteAdvice]) -> list[AdviceFigures]:
    return [found for _, each in sorted(advice.items()) if (found := advice_figures(runs, each))]


def make_page(runs: Runs, results: Sequence[RegimeResult], folder: str, advised: Sequence[AdviceFigures] = ()) -> str:
    """Return the page, Markdown. `folder` has the results and the picture, and is next to the page."""
    goals = [[goal.goal, goal.measured, MET[goal.met]] for goal in check_goals(results, advised)]
    sections = [
        "# What the default recipe saves with different data and networks",
        "This page is for readers who want to know what the default settings save on data like their own, and where "
        "they save little. A regime is a data set, a network, and the order in which the images arrive as drops. Each "
        "regime has a file in `studies/regimes/`. A journey is a regime with four drops, as a first-time user might "
        "have. A sequence is one regime with one seed: all its drops, one after the other. Scratch is training from a "
        "new network on all drops so far. The numbers of the tables come from "
        f"[`{folder}/{FILE}`]({folder}/{FILE}).",
        markdown_table(["goal", "measured", "met?"], goals, "---"),
        f"![L_100 and test accuracy in every regime]({folder}/regimes.svg)",
        "## Every regime",
        "L_r is how many times sooner than scratch a run reaches r percent of scratch's final accuracy on val "
        "(Verwimp et al., eq. 2). Higher is better, and 1 means no saving. Scratch's final accuracy is the run's "
        "target. Iterations are summed over drops and seeds. A run that never reaches the accuracy counts with all its "
        "iterations plus scratch's iterations to that accuracy. (2/3) means that the accuracy was reached on two drops "
        "out of three.",
        "Columns that name no method are for the default settings. Plain scratch evaluates its last weights. Averaged "
        "scratch evaluates the average of its weights, as the default does, so a comparison with it is fairer. "
        "s_scratch is the mean over seeds of scratch's iterations to its final accuracy. The presets naive and paper "
        "have fewer seeds in some regimes.",
        markdown_table(*_speed_ups(results), "---"),
        "## What a user of the defaults saves",
        "Here the target is carried from the first drop, as it is for a user who never runs `retrain baseline`. All "
        "numbers are means over seeds.",
        "- **Used**: iterations of all runs of the default, including evaluations. The first column divides them by "
        "s_scratch of plain scratch, the second by the iterations of scratch's full schedules. Lower is better.\n"
        "- **Net saving**, in iterations. Higher is better. The ledger states it with its standard error. "
        "`retrain/experiments/regimes/figures.py` computes it again from the measured curves, against plain and "
        "against averaged scratch. A drop whose run the gate refused saves nothing, and the iterations of that run are "
        "a loss.\n"
        "- **Test accuracy**: the accuracy of the model with which each run ended, as a mean over drops.",
        markdown_table(*_sequences(results), "---"),
        *_ablation(results),
        *_recommended(advised),
        "## The regimes",
        "\n".join(f"- **{regime.title}** (`{regime.name}`): {regime.why}" for regime, _ in results),
        "## To repeat it",
        "`python -m retrain.experiments.regimes run --out FOLDER --jobs 2`, then "
        "`python -m retrain.experiments.regimes report FOLDER`. " + _describe_environment(runs),
    ]
    return "\n\n".join(sections) + "\n"


def _speed_ups(results: Sequence[RegimeResult]) -> tuple[list[str], list[list[str]]]:
    head = ["regime", "seeds", "s_scratch, plain", "s_scratch, averaged", "L_99", "L_100"]
    head += [
        "L_99 against averaged",
        "L_100 against averaged",
        "naive: L_100",
        "paper: L_100",
        "averaged scratch: L_100",
    ]
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
            str(len(found.sequences)),
            _iterations(found.mean(lambda each: each.scratch)),
            _iterations(found.mean(lambda each: each.scratch_averaged)),
            *(_speed_up(found, *column) for column in columns),
        ]
        for regime, found in results
    ]
    means = [[s for _, found in results if (s := found.speed_up(*column))] for column in columns]
    last = ["**geometric mean**", "", "", "", *(f"**{geometric_mean(each):.2f}**" if each else "-" for each in means)]
    return head, [*rows, last]


def _sequences(results: Sequence[RegimeResult]) -> tuple[list[str], list[list[str]]]:
    head = [
        "regime",
        "used, share of s_scratch",
        "used, share of full schedules",
        "net saving in the ledger",
        "standard error in the ledger",
        "net saving against plain scratch",
        "net saving against averaged scratch",
    ]
    head += ["test, default", "test, plain scratch", "difference in points", "outcomes of runs", "promoted"]
    rows = [
        [
            regime.title,
            _percent(found.mean(lambda each: each.used_all_in / each.scratch)),
            _percent(found.mean(lambda each: each.used_all_in / each.whole)),
            _iterations(found.mean(lambda each: each.net_ledger)),
            _iterations(found.mean(lambda each: each.ledger_error)),
            _iterations(found.mean(lambda each: each.net)),
            _iterations(found.mean(lambda each: each.net_averaged)),
            _percent(found.mean(lambda each: each.test), 1),
            _percent(found.mean(lambda each: each.test_scratch), 1),
            _points(found.mean(lambda each: 100 * (each.test - each.test_scratch))),
            _outcomes(found),
            f"{sum(sequence.promoted for sequence in found.sequences.values())} of "
            f"{sum(len(sequence.outcomes) for sequence in found.sequences.values())}",
        ]
        for regime, found in results
    ]
    return head, rows


def _ablation(results: Sequence[RegimeResult]) -> Iterator[str]:
    """Yield the table of variants, for the regimes and seeds with which all variants were run."""
    columns = [DEFAULT_TO_PLAIN, NAIVE, *VARIANTS]
    rows = []
    for regime, found in results:
        if found.shared_seeds(VARIANTS, PLAIN):
            seeds = found.shared_seeds(columns, PLAIN)
            title = f"{regime.title} ({pluralize(len(seeds), 'seed')})"
            rows.append((title, [found.speed_up(method, PLAIN, seeds=seeds) for method in columns]))
    if not rows:
        return
    yield "## The effect of each idea"
    yield (
        "The table shows L_100 against plain scratch, as above. Its rows are the default, the default with one idea "
        "removed or changed, the preset naive, and naive with one idea added. The mean is geometric."
    )
    cells = {method: [speed_ups[column] for _, speed_ups in rows] for column, method in enumerate(columns)}
    lines = [
        [
            LABELS.get(method, method),
            *(f"{s:.2f}" if s else "-" for s in found),
            f"**{geometric_mean(known):.2f}**" if known else "-",
        ]
        for method, found in cells.items()
        if (known := [s for s in found if s]) or not found
    ]
    yield markdown_table(["method", *(title for title, _ in rows), "mean"], lines, "---")


def _recommended(advised: Sequence[AdviceFigures]) -> Iterator[str]:
    """Yield the table of the advice of `retrain study recommend`."""
    if not advised:
        return
    yield "## The advice of `retrain study recommend`"
    yield (
        "The command was run after the second drop, and after scratch's accuracy had been measured. It makes short "
        "runs of the presets default, naive and paper. Together these take a quarter of scratch's schedule. Then the "
        "presets and scratch were run at full length. The columns *advised*, *best* and *scratch* show the iterations "
        "after which the advised preset, the best preset and scratch reached scratch's accuracy. A run that never "
        "reaches it counts with all its iterations plus scratch's."
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
    titles = ["regime", "seed", "advice", "advised", "best", "advised / best", "scratch"]
    titles.append("short runs, share of the schedule")
    yield markdown_table(titles, rows, "---")


def _speed_up(found: RegimeFigures, method: str, baseline: str, level: int) -> str:
    speed_up, (reached, drops) = found.speed_up(method, baseline, level), found.reached(method, baseline, level)
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
    ended = [outcome for sequence in found.sequences.values() for outcome in sequence.outcomes]
    return ", ".join(f"{ended.count(outcome)} {outcome}" for outcome in dict.fromkeys(ended))


def _describe_environment(runs: Runs) -> str:
    machines = sorted({f"{run.machine.device}, torch {run.machine.torch}" for run in runs.values()})
    commits = sorted({run.commit for run in runs.values()})
    hours = sum(run.device_seconds for run in runs.values()) / 3600
    return (
        f"{len(runs)} results, {hours:.1f} hours in total, one thread for each run, on {'; '.join(machines)}; "
        f"commit {', '.join(commits)}."
    )
