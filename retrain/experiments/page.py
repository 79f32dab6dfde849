"""Write a study's page and tables. They can be reproduced from the study's file and its `runs.jsonl` alone."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from retrain.experiments.introduction import ASPECTS, OWN, describe_split, describe_subject, explain_phrases
from retrain.experiments.kept_runs import EndedRun, KeptRuns
from retrain.experiments.papers import PaperRow, parse_column
from retrain.experiments.plots import OVERALL_PLOTS, drawn_of_groups, picture_name
from retrain.experiments.settings import PLOTS, Spread, Study
from retrain.experiments.statistics import (
    LEVELS,
    Estimate,
    Group,
    Row,
    accumulated,
    estimate,
    figure_names,
    groups,
    measured,
    on_grids,
    rows,
)
from retrain.utils.text import pluralize

NOT_REACHED = "/"
ABSENT = "-"
"""Text of a cell without a value."""
SPREADS: dict[Spread, str] = {"error": "standard error", "deviation": "standard deviation"}
MEASURED = {
    "correlation": "*Correlation of weights* is the correlation between a run's final and initial weights.",
    "gradient": "*Gradient norm* is the mean norm of new or old samples' gradients, at the start or end of a run.",
    "rank": "*Rank correlation of learning speeds* compares the speeds of old samples in the previous run and in this "
    "run. The learning speed of a sample is the share of epochs in which it was classified correctly.",
}
"""Meanings of the measures of a run besides its accuracy, by the first word of their names."""
HARM = "▼"
"""Sign of a method with negative transfer."""


def page(study: Study, kept: KeptRuns) -> str:
    """Return the study's page, Markdown."""
    by_group = groups(study, kept.runs)
    tables = "\n\n".join(_tables(study, by_group)) or "No run has ended yet."
    splits = " ".join(describe_split(study, name) for name in study.splits)
    sections = [
        f"# {study.title}",
        describe_subject(study),
        *_claims(study),
        "## Set-up",
        *_paragraphs(study.regime),
        f"**To repeat it.** `retrain study run {study.name}`, then `retrain study report {study.name}`. This study's "
        f"numbers in the tables below come from `{study.name}/runs.jsonl`. `retrain study report --check` computes "
        "them again and compares them with this page.",
        f"**Environment.** {_describe_environment(study, kept)}",
        *_findings(study),
        *_methods(study),
        *_paper_comparison(study, by_group),
        "## Results",
        f"Accuracies are in percent, as mean ± {SPREADS[study.spread]} over seeds. {_describe_columns(study)}",
        "L_r (Verwimp et al., eq. 2) says how many times sooner than a reference method a run reaches r percent of "
        f"the reference's final accuracy. It is a ratio of two numbers of {study.cost}. The first is the number that "
        "the reference needs to reach its final accuracy. The second is the number that the run needs to reach r "
        "percent of it. Above 1, the run is faster. The L_99 of the reference itself is 1 or more, because it reaches "
        "99 percent of its final accuracy no later than 100 percent.",
        f"`{NOT_REACHED}` means that no run reached the value. (2/3) means that the runs of two seeds out of three "
        f"reached it. {HARM} "
        "marks a method with negative transfer: its mean final accuracy is lower than the mean final accuracy of "
        f"`{study.against[0]}` with the same seeds.",
        "Each heading below states the split (the division of the training data into drops), the variant (`task` if "
        f"the study has none) and the number of drops that had arrived. {splits}",
        *_describe_accuracy_plot(study),
        tables,
    ]
    return "\n\n".join(sections) + "\n"


def _describe_columns(study: Study) -> str:
    """Return sentences that explain the columns highest, final and test."""
    on_test = study.stop_on == "test"
    same = " Here *final* and *test* are accuracies of the same weights on the same split." if on_test else ""
    return (
        f"During training, this study evaluates on the {'test' if on_test else 'validation'} split. The column "
        "*highest* shows a run's highest accuracy on this split, and *final* its last accuracy. The column *test* "
        f"shows the accuracy on the test split, measured with the weights at the end of the run.{same}"
    )


def _describe_accuracy_plot(study: Study) -> Iterator[str]:
    """Yield a sentence that explains the line and the dots in plots of accuracy, if the page has such plots."""
    if "accuracy" in study.plots:
        yield (
            f"In plots of accuracy, the grey line is the final accuracy of `{study.against[0]}`. A dot shows the mean "
            "iteration at which a method first reaches it, if its runs do so with every seed."
        )


def _claims(study: Study) -> Iterator[str]:
    if study.claims:
        lines = ([claim.item.removeprefix(OWN), claim.paper, claim.ours, claim.agrees] for claim in study.claims)
        yield markdown_table(["about", "goal", "measured", "met?"], lines, "---")


def _findings(study: Study) -> Iterator[str]:
    if study.findings:
        yield "## Discussion" if study.claims else "## Findings"
        yield from _paragraphs(study.findings)


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a folded YAML text. Each of its lines is one paragraph."""
    return filter(None, text.splitlines())


def _methods(study: Study) -> Iterator[str]:
    """Yield a description of each method of the study."""
    yield "## Methods"
    have_aspects = any(method.aspects for method in study.methods.values())
    if have_aspects and ASPECTS not in explain_phrases(study):
        yield ASPECTS
    yield (
        "A run of a method starts from a new network (scratch), or from the weights of the method's run on the "
        "earlier drops (previous run). "
        + (
            f"The table lists the aspects of the recipe of `studies/{study.name}.yaml` that a method follows, with its "
            "settings in the last column. Everything else is standard training."
            if have_aspects
            else "All methods use standard training with the settings in the last column. They use no part of the "
            "recipe of `retrain`."
        )
    )
    lines = (
        [
            name,
            "scratch" if method.start == "scratch" else "previous run",
            *([", ".join(method.aspects) or "none"] if have_aspects else []),
            ", ".join(f"`{path}: {json.dumps(value)}`" for path, value in method.set.items()),
        ]
        for name, method in study.methods.items()
    )
    yield markdown_table(
        ["method", "start", *(["aspects of the recipe"] if have_aspects else []), "settings"], lines, "---"
    )


def _paper_comparison(study: Study, by_group: Mapping[Group, Sequence[EndedRun]]) -> Iterator[str]:
    """Yield the table that compares the paper's numbers with the study's."""
    if not study.paper:
        return
    columns = list(dict.fromkeys(column for row in study.paper for column in row.figures))
    found = {group: {row.method: row for row in rows(study, runs)} for group, runs in by_group.items()}
    figures = (title for column in columns for title in (f"{column}, the paper", f"{column}, this study"))
    titles = ["row of the paper", "method", *figures]
    lines = []
    for row in study.paper:
        ours = found.get(_group_of(study, row), {}).get(row.method)
        pairs = ((row.figures.get(column, ""), _study_figure(study, ours, column)) for column in columns)
        lines.append([row.row, row.method or ABSENT, *(figure for pair in pairs for figure in pair)])
    yield "## The paper's numbers and this study's"
    spread = SPREADS[study.spread]
    notes = [f"`{ABSENT}` means that this study has no run like the paper's."]
    if "Max Acc" in columns:
        notes.append("Max Acc, the paper's term, is the highest accuracy of a run in percent.")
    if any(column.startswith("L_") for column in columns):
        notes.append(f"L_99, L_100 and `{NOT_REACHED}` are explained under Results.")
    if any("±" in cell for line in lines for cell in line[2:]):
        notes.append(f"Numbers after ± are {spread}s.")
    if any("(" in figure for row in study.paper for figure in row.figures.values()):
        notes.append(f"Numbers in parentheses are the paper's {spread}s.")
    if study.size == "mini":
        notes.append(
            "The paper's numbers are for the paper's data and networks. This study has the smaller data and networks "
            "that Set-up describes."
        )
    if "time" in columns:
        notes.append("The paper's times are minutes. This study's times are iterations until the network is fitted.")
    yield " ".join(notes)
    yield markdown_table(titles, lines)


def _group_of(study: Study, row: PaperRow) -> Group:
    variant, split = row.variant or next(iter(study.variants)), row.split or next(iter(study.splits))
    return Group(variant, split, study.count_drops(split))


def _study_figure(study: Study, ours: Row | None, column: str) -> str:
    """Return the study's number for a column of the paper's table, or `ABSENT`."""
    if ours is None:
        return ABSENT
    figure, other = parse_column(column)
    speed_ups = ours.speed_ups.get(other or study.against[0], {})
    match figure:
        case "Max Acc":
            return format_percent(ours.best, study.spread)
        case "accuracy":
            return format_percent(ours.final, study.spread)
        case "L_99" | "L_100":
            return format_ratio(speed_ups[int(figure[2:])], study.spread) if speed_ups else ABSENT
        case "time":
            return format_count(ours.fitted, study.spread)
        case _:
            return ABSENT


def _describe_environment(study: Study, kept: KeptRuns) -> str:
    shared = {(one.record.task, one.record.run_id): one.record.result for one in kept.runs}  # equal cells share a run
    results = [result for result in shared.values() if result]
    machines = sorted({f"{each.machine.device}, {pluralize(each.machine.threads, 'thread')}" for each in results})
    versions = sorted({f"retrain {each.machine.retrain}, torch {each.machine.torch}" for each in results})
    hours = sum(each.cost.device_seconds_all_in for each in results) / 3600
    iterations = sum(each.cost.iterations for each in results)
    seeds = ", ".join(map(str, sorted({one.cell.seed for one in kept.runs})))
    commit = kept.commit.replace("-dirty", " with uncommitted changes")
    uncounted = "" if any(one.cell.drops == 1 for one in kept.runs) else " (runs on the first drop are not counted)"
    return (
        f"{'; '.join(versions)}, commit {commit}; on {'; '.join(machines)}; seeds {seeds}; {len(results)} runs, "
        f"{iterations:,} iterations, {hours:.2f} device-hours{uncounted}."
    )


def _tables(study: Study, by_group: Mapping[Group, list[EndedRun]]) -> Iterator[str]:
    pictures = list(drawn_of_groups(study, by_group))
    for group, members in by_group.items():
        if group.drops > 1:
            yield f"### {group.split}, {group.variant}, {group.drops} drops\n\n{table(study, rows(study, members))}"
        for of, plot in pictures:
            if of == group:
                variant = f", variant {group.variant}" if len(study.variants) > 1 else ""
                about = f"{PLOTS[plot]}; split {group.split}{variant}"
                yield f"![{about}]({study.name}/{picture_name(group, plot)}.svg)"
        if study.grids and group.drops > 1:
            lines = (
                [method, *(format_ratio(each, study.spread) for each in found)]
                for method, found in on_grids(study, members).items()
            )
            intervals = ("every evaluation" if every == 1 else f"one evaluation in {every}" for every in study.grids)
            titles = [f"L_100, {interval}" for interval in intervals]
            yield "This table shows the L_100 that would result if fewer evaluations had been made."
            yield markdown_table(["method", *titles], lines)
        if figures := dict.fromkeys(figure_names(members)):
            by_method = {method: by for method, by in measured(members).items() if by}
            lines = (
                [method, *(_plain(by.get(name, estimate([])), study.spread) for name in figures)]
                for method, by in by_method.items()
            )
            yield "This table shows other measurements of the same runs. " + " ".join(
                meaning for word, meaning in MEASURED.items() if any(name.startswith(word) for name in figures)
            )
            yield markdown_table(["method", *figures], lines)
    yield from _first_drop_table(study, by_group)
    yield from (f"![{PLOTS[plot]}]({study.name}/{plot}.svg)" for plot in study.plots if plot in OVERALL_PLOTS)
    for variant, split in dict.fromkeys((group.variant, group.split) for group in by_group):
        if study.count_drops(split) > 2:
            spent = accumulated(study, by_group, variant, split)
            lines = ([each.method, format_count(each.iterations, study.spread)] for each in spent)
            title = f"### {split}, {variant}: iterations to the final accuracy of {study.against[0]}, all drops"
            note = (
                f"For each drop after the first, the study counts the iterations until a method's run reaches the "
                f"final accuracy of `{study.against[0]}` on the same drops. This table shows the sum over the drops. "
                f"`{NOT_REACHED}` means that the accuracy was not reached on every drop."
            )
            yield f"{title}\n\n{note}\n\n{markdown_table(['method', 'iterations'], lines)}"


def _first_drop_table(study: Study, by_group: Mapping[Group, list[EndedRun]]) -> Iterator[str]:
    """Yield the table of runs on the first drop. All methods but scratch continue from these runs."""
    lines = []
    for group, members in by_group.items():
        if group.drops == 1:
            (row,) = rows(study, members)
            fitted = [format_count(row.fitted, study.spread)] if fitted_title(study) else []
            percents = (format_percent(each, study.spread) for each in (row.best, row.final, row.test))
            lines.append([f"{group.split}, {group.variant}", *percents, *fitted])
    if lines:
        yield "### Runs on the first drop"
        yield "The methods that do not start from scratch continue from these runs."
        yield markdown_table(["split, variant", "highest", "final", "test", *fitted_title(study)], lines)


def fitted_title(study: Study) -> list[str]:
    """Return the title of the column with the iterations until a run was fitted, or nothing without this column."""
    if study.fitted_accuracy:
        return [f"iterations to a training accuracy of {study.fitted_accuracy:.0%}"]
    return [f"iterations to a training loss of {study.fitted:g}"] if study.fitted else []


def table(study: Study, found: Iterable[Row]) -> str:
    """Return a group's table, Markdown."""
    levels = [f"L_{level} against {other}" for other in study.against for level in LEVELS]
    lines = (_cells(study, row) for row in found)
    return markdown_table(["method", "highest", "final", "test", *levels, *fitted_title(study)], lines)


def _cells(study: Study, row: Row) -> list[str]:
    name = f"{row.method} {HARM}" if row.negative_transfer else row.method
    if row.diverged:
        name += f" ({row.diverged} diverged)"
    ratios = [format_ratio(by[level], study.spread) for by in row.speed_ups.values() for level in LEVELS]
    return [
        name,
        *(format_percent(each, study.spread) for each in (row.best, row.final, row.test)),
        *ratios,
        *([format_count(row.fitted, study.spread)] if fitted_title(study) else []),
    ]


def format_percent(share: Estimate, spread: Spread = "error") -> str:
    """Return a share in percent, with its spread if there are several seeds."""
    return f"{100 * share.mean:.2f}{_spread(share, spread, '.2f', 100)}" if share.mean is not None else ABSENT


def format_ratio(ratio: Estimate, spread: Spread = "error") -> str:
    """Return a speed-up with its spread, `NOT_REACHED` if no seed has one, or `ABSENT` without seeds."""
    if ratio.mean is None:
        return NOT_REACHED if ratio.of else ABSENT
    return f"×{ratio.mean:.2f}{_spread(ratio, spread, '.2f')}{_reached_seeds(ratio)}"


def format_count(count: Estimate, spread: Spread = "error") -> str:
    """Return a number of iterations with its spread, `NOT_REACHED` if no seed has one, or `ABSENT` without seeds."""
    if count.mean is None:
        return NOT_REACHED if count.of else ABSENT
    return f"{count.mean:,.0f}{_spread(count, spread, ',.0f')}{_reached_seeds(count)}"


def _plain(figure: Estimate, spread: Spread) -> str:
    return f"{figure.mean:.4g}{_spread(figure, spread, '.2g')}" if figure.mean is not None else ABSENT


def _spread(value: Estimate, spread: Spread, number: str, factor: float = 1.0) -> str:
    width = value.width(spread)
    return f" ± {factor * width:{number}}" if width is not None else ""


def _reached_seeds(of_seeds: Estimate) -> str:
    return f" ({of_seeds.n}/{of_seeds.of})" if of_seeds.n < of_seeds.of else ""


def markdown_table(titles: Sequence[str], lines: Iterable[Iterable[str]], align: str = "---:") -> str:
    """Return a Markdown table with the first column left-aligned and the others aligned by `align`."""
    rule = ["---", *(align for _ in titles[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in (titles, rule, *lines))


def comma_separated(study: Study, kept: KeptRuns) -> str:
    """Return all tables as one CSV: a line per group and method, shares in 0..1, empty cells for missing values."""
    buffer = io.StringIO()
    levels = [f"L_{level} against {other}" for other in study.against for level in LEVELS]
    figures = [f"{name}{part}" for name in ("highest", "final", "test", *levels) for part in ("", " se", " n")]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["variant", "split", "drops", "method", "seeds", "diverged", "negative transfer", *figures])
    for group, members in groups(study, kept.runs).items():
        for row in rows(study, members):
            estimates = [row.best, row.final, row.test, *(e for each in row.speed_ups.values() for e in each.values())]
            values = [value for each in estimates for value in (_rounded(each.mean), _rounded(each.error), each.n)]
            writer.writerow([*group, row.method, row.best.of, row.diverged, row.negative_transfer, *values])
    return buffer.getvalue()


def _rounded(value: float | None) -> float | None:
    """Round to nine digits: sums differ in later digits between machines."""
    return None if value is None else float(f"{value:.9g}")
