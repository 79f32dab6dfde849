"""A study's page and tables, made from its file and its kept runs alone, so that they can be made again."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence

from retrain.experiments.kept_runs import EndedRun, KeptRuns
from retrain.experiments.plots import picture_name
from retrain.experiments.settings import Study
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

NOT_REACHED = "/"
OVERALL = {"final": "final accuracies", "time": "final accuracies over training time"}
"""The pictures of which a study has one for all its groups, and what they show."""
HARM = "▼"
"""Marks negative transfer."""


def page(study: Study, kept: KeptRuns) -> str:
    """Return the study's page, Markdown."""
    by_group = groups(study, kept.ran)
    tables = "\n\n".join(_tables(study, by_group)) or "No run has ended yet."
    sections = [
        f"# {study.title}",
        f"Repeats {'; '.join(study.repeats)} ({study.size} size).",
        f"**Regime.** {study.regime.strip()}",
        f"**To repeat it.** `retrain study run {study.name}`, then `retrain study report {study.name}`. "
        f"Every figure below comes from `{study.name}/runs.jsonl`; `retrain study report --check` makes it again.",
        f"**Made with.** {_made_with(study, kept)}",
        "## Ours",
        f"Percent of correct images on {study.stop_on}, mean ± standard error over seeds. L_r (Verwimp et al., eq. 2) "
        "divides the iterations that the other method took to its own final accuracy by those that a run took to r "
        "percent of that accuracy: above 1 is faster. The first figure is the same at every r, so the other method's "
        f"own L_99 is 1 or more. {NOT_REACHED}: never reached; (2/3): reached with two seeds of three. {HARM}: "
        f"negative transfer, the mean final accuracy is below that of {study.against[0]} with the same seeds.",
        tables,
        *_paper(study),
        *(["## What agrees, and what does not", study.findings.strip()] if study.findings else []),
    ]
    return "\n\n".join(sections) + "\n"


def _made_with(study: Study, kept: KeptRuns) -> str:
    results = [one.record.result for one in kept.ran if one.record.result]
    machines = sorted({f"{each.machine.device}, {each.machine.threads} threads" for each in results})
    versions = sorted({f"retrain {each.machine.retrain}, torch {each.machine.torch}" for each in results})
    hours = sum(each.cost.device_seconds_all_in for each in results) / 3600
    iterations = sum(each.cost.iterations for each in results)
    seeds = ", ".join(map(str, study.seeds))
    return (
        f"{'; '.join(versions)}, commit {kept.commit}; on {'; '.join(machines)}; seeds {seeds}; {len(results)} runs, "
        f"{iterations:,} iterations, {hours:.2f} device-hours (those on the first drop not counted)."
    )


def _paper(study: Study) -> Iterator[str]:
    if study.paper:
        yield "## The paper's"
        yield markdown_table(["method", "figure"], study.paper.items())


def _tables(study: Study, by_group: Mapping[Group, Sequence[EndedRun]]) -> Iterator[str]:
    for group, members in by_group.items():
        title = f"### {group.split}, {group.variant}, {group.drops} drops"
        yield f"{title}\n\n{table(study, rows(study, members))}"
        for plot in study.plots:
            if plot not in OVERALL:
                yield f"![{plot} of {group.split}, {group.variant}]({study.name}/{picture_name(group, plot)}.svg)"
        if study.grids:
            lines = ([method, *map(format_ratio, found)] for method, found in on_grids(study, members).items())
            titles = [f"L_100, one evaluation in {every}" for every in study.grids]
            yield markdown_table(["method", *titles], lines)
        if figures := dict.fromkeys(figure_names(members)):
            by_method = {method: by for method, by in measured(members).items() if by}
            lines = (
                [method, *map(_plain, (by.get(name, estimate([])) for name in figures))]
                for method, by in by_method.items()
            )
            yield markdown_table(["method", *figures], lines)
    for name, shown in OVERALL.items():
        if name in study.plots:
            yield f"![{shown}]({study.name}/{name}.svg)"
    for variant, split in dict.fromkeys((group.variant, group.split) for group in by_group):
        if sum((group.variant, group.split) == (variant, split) for group in by_group) > 1:
            spent = accumulated(study, by_group, variant, split)
            lines = ([each.method, format_count(each.iterations)] for each in spent)
            title = f"### {split}, {variant}: iterations to L_100, all drops"
            yield f"{title}\n\n{markdown_table(['method', 'iterations'], lines)}"


def table(study: Study, found: Iterable[Row]) -> str:
    """Return a group's table, Markdown."""
    levels = [f"L_{level} against {other}" for other in study.against for level in LEVELS]
    fitted = [f"iterations to a training loss of {study.fitted:g}"] if study.fitted else []
    lines = (_cells(row, bool(fitted)) for row in found)
    return markdown_table(["method", "highest", "final", "test", *levels, *fitted], lines)


def _cells(row: Row, fitted: bool) -> list[str]:
    name = f"{row.method} {HARM}" if row.negative_transfer else row.method
    if row.diverged:
        name += f" ({row.diverged} diverged)"
    ratios = [format_ratio(by_level[level]) for by_level in row.speed_ups.values() for level in LEVELS]
    return [
        name,
        *map(format_percent, (row.best, row.final, row.test)),
        *ratios,
        *([format_count(row.fitted)] if fitted else []),
    ]


def format_percent(share: Estimate) -> str:
    """Return a share in percent, with its standard error where there is one."""
    error = f" ± {100 * share.error:.2f}" if share.error is not None else ""
    return f"{100 * share.mean:.2f}{error}" if share.mean is not None else "-"


def format_ratio(ratio: Estimate) -> str:
    """Return a speed-up with its standard error; `NOT_REACHED` where no seed has one."""
    if ratio.mean is None:
        return NOT_REACHED if ratio.of else "-"
    error = f" ± {ratio.error:.2f}" if ratio.error is not None else ""
    return f"×{ratio.mean:.2f}{error}{_partly(ratio)}"


def format_count(count: Estimate) -> str:
    """Return a number of iterations with its standard error; `NOT_REACHED` where no seed got there."""
    if count.mean is None:
        return NOT_REACHED if count.of else "-"
    error = f" ± {count.error:,.0f}" if count.error is not None else ""
    return f"{count.mean:,.0f}{error}{_partly(count)}"


def _plain(figure: Estimate) -> str:
    error = f" ± {figure.error:.2g}" if figure.error is not None else ""
    return f"{figure.mean:.4g}{error}" if figure.mean is not None else "-"


def _partly(of_seeds: Estimate) -> str:
    return f" ({of_seeds.n}/{of_seeds.of})" if of_seeds.n < of_seeds.of else ""


def markdown_table(titles: Sequence[str], lines: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table, the first column left-aligned and the others right-aligned."""
    rule = ["---", *("---:" for _ in titles[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in (titles, rule, *lines))


def comma_separated(study: Study, kept: KeptRuns) -> str:
    """Return all tables as one CSV: a line a method, shares in 0..1, empty where there is no value."""
    buffer = io.StringIO()
    levels = [f"L_{level} against {other}" for other in study.against for level in LEVELS]
    figures = [f"{name}{part}" for name in ("highest", "final", "test", *levels) for part in ("", " se", " n")]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["variant", "split", "drops", "method", "seeds", "diverged", "negative transfer", *figures])
    for group, members in groups(study, kept.ran).items():
        for row in rows(study, members):
            estimates = [row.best, row.final, row.test, *(e for each in row.speed_ups.values() for e in each.values())]
            values = [value for each in estimates for value in (_rounded(each.mean), _rounded(each.error), each.n)]
            writer.writerow([*group, row.method, row.best.of, row.diverged, row.negative_transfer, *values])
    return buffer.getvalue()


def _rounded(value: float | None) -> float | None:
    """To nine digits: sums differ in the last ones between machines."""
    return None if value is None else float(f"{value:.9g}")
