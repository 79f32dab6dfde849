"""Format records as tables for people, or as JSON for programs."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, TypeVar

import typer
from pydantic import BaseModel
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from retrain.config import METRIC_NAMES, Metric
from retrain.config.loading import task_argument
from retrain.pipeline.approval import Candidate
from retrain.pipeline.status import Status
from retrain.records import Decision, Plan, Result, RunRecord, Savings, ScratchEstimate, Target
from retrain.records.ledger import DIVERGED, is_reached_within_error, total_savings
from retrain.records.plan import StopRule
from retrain.store import missing_folder
from retrain.store.keys import TaskKeys
from retrain.utils.clock import format_briefly, utc_now
from retrain.utils.text import pluralize

M = TypeVar("M", bound=BaseModel)
Rows = Iterable[tuple[str, str]]
ABSENT = "-"
"""Text of a cell without a value."""
WIDE = 116
"""Least width, in characters, at which tables show all their columns. A pipe or a file counts as wide."""
AWAITS = "awaits approval"
"""Name of the row about a candidate that awaits a person's verdict."""
SCRATCH_RUNS = " (runs from scratch count in full)"
"""Text after a sum over all runs. The saving of a run from scratch is 0, because the run is its own baseline."""
GAP = 2
"""Number of characters between two columns."""


class Column(NamedTuple):
    """One column of a table: title, cell text of a record, alignment, and whether narrow terminals omit it."""

    title: str
    cell: Callable[..., str]
    justify: Literal["left", "right"] = "right"
    only_wide: bool = False


def console(width: int | None = None) -> Console:
    """Return the console for tables. It prints text unchanged, because class names may contain brackets or colons."""
    is_known = os.isatty(1) or "COLUMNS" in os.environ
    return Console(markup=False, highlight=False, emoji=False, width=width or (None if is_known else 120))


def print_tables(*parts: str | Table) -> None:
    """Print tables and strings, one below the other.

    A table is as wide as its numbers need. A narrower terminal wraps the lines, and no number is cut off.
    """
    shown = console()
    needed = max((part.min_width or 0 for part in parts if isinstance(part, Table)), default=0)
    (shown if needed <= shown.width else console(needed)).print(*parts, sep="\n")


def print_record(record: M | Sequence[M], table: Callable[..., Table], as_json: bool) -> None:
    """Print a record, or a list of them."""
    if not as_json:
        print_tables(table(record))
    elif isinstance(record, BaseModel):
        typer.echo(record.model_dump_json(indent=2))
    else:
        typer.echo(json.dumps([item.model_dump(mode="json") for item in record], indent=2))


def details(title: str, rows: Rows) -> Table:
    """Return a table of names and values."""
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def grid(columns: Sequence[Column], records: Sequence[object]) -> Table:
    """Return a table with a line for each record. Only the text in its last column may be cut off."""
    wide = console().width >= WIDE
    shown = [column for column in columns if wide or not column.only_wide]
    table = Table(box=None, pad_edge=False, header_style="bold")
    lines = [[column.cell(record) for column in shown] for record in records]
    for number, (title, _, justify, _) in enumerate(shown):
        is_uncut = number < len(shown) - 1 or justify == "right"
        longest = max((cell_len(line[number]) for line in lines), default=0) if is_uncut else 0
        table.add_column(title, justify=justify, no_wrap=True, min_width=max(cell_len(title), longest))
    for line in lines:
        table.add_row(*line)
    table.min_width = sum(column.min_width or 0 for column in table.columns) + GAP * (len(shown) - 1)
    return table


def format_percent(value: float | None) -> str:
    """Return an accuracy in percent, or `-`."""
    return ABSENT if value is None else f"{value:.2%}"


def format_speed_up(value: float | None) -> str:
    """Return a speed-up, or `/` if the level was not reached, as in the paper's tables."""
    return "/" if value is None else f"x{value:.2f}"


def plan_details(plan: Plan) -> Table:
    """Return a plan and its reasons as a table."""
    return details(f"plan of {plan.run_id}", _plan_rows(plan))


def _plan_rows(plan: Plan) -> Rows:
    recipe, dataset = plan.recipe, plan.dataset
    aspects = (
        f"start {recipe.initialization.name}",
        f"penalty {recipe.objective.name}",
        f"sampling {'balanced' if plan.task.training.balanced_sampling else recipe.sampling.name}",
        f"schedule {recipe.schedule.name} x{recipe.schedule.scale:g}",
    )
    sizes = (
        pluralize(len(dataset.drops), "drop"),
        pluralize(dataset.samples, "training sample"),
        pluralize(len(dataset.classes), "class"),
    )
    for warning in plan.warnings:
        yield "warning", warning
    yield "reason", plan.reason
    yield "method", plan.method
    yield "parent", plan.parent or ABSENT
    yield "dataset", ", ".join(sizes)
    yield "new drops", ", ".join(drop.id for drop in dataset.drops[plan.known :]) or ABSENT
    yield "recipe", ", ".join(aspects)
    if plan.start:
        yield "start", plan.start
    yield "averaging", plan.averaging.kind
    yield "data", f"{'streamed' if plan.loading.kind == 'stream' else 'in memory'}: {plan.loading.reason}"
    yield "iterations", f"{plan.iterations:,} at most, evaluated every {plan.evaluate_every:,}"
    if plan.scratch:
        yield "from scratch", _describe_estimate(plan.scratch)
    if plan.target:
        yield "target on val", _describe_target(plan.target, plan.metric)
    if plan.stop_rule:
        yield from _end_rows(plan.stop_rule, plan.target)


def _end_rows(rule: StopRule, target: Target | None) -> Rows:
    """Yield when a run ends at its target, and when it ends below it."""
    count = rule.confirmations
    at_target = f"once {'an evaluation' if count == 1 else f'the mean of {count} evaluations'} has reached it"
    if target and target.scope and (early := rule.improve_until):
        at_target += f" and the accuracy has stopped rising. After {early:,} iterations it may still rise slowly"
        at_target += f", and after {2 * early:,} iterations also fast"
    below = "at the end of its schedule"
    if rule.patience:
        near = f". Up to {100 * rule.tolerance:.1f} points below, it counts as reached" if rule.tolerance else ""
        below = f"after {rule.patience:,} iterations in which the accuracy rose too little{near}"
    yield "ends", f"at the target: {at_target}"
    yield "", f"below the target: {below}"


def _describe_estimate(estimate: ScratchEstimate) -> str:
    """Return a text with scratch's iterations to its accuracy, their source, and the iterations to its end."""
    full = f"{estimate.schedule:,} for the full training"
    if estimate.provenance == "measured":
        return f"{estimate.iterations:,.0f} iterations to its accuracy, measured on these drops, {full}"
    runs = f"{pluralize(estimate.runs, 'scratch run')} and " if estimate.runs else ""
    return (
        f"{estimate.iterations:,.0f} iterations to its accuracy, estimated from {runs}values typical of other tasks "
        f"(standard error {estimate.standard_error:,.0f}), {full}"
    )


def _describe_target(target: Target, metric: Metric) -> str:
    """Return a target with its source and standard error."""
    source = f"what {target.baseline_run} reached"
    if target.provenance == "carried":
        source += f" {pluralize(target.age, 'drop')} ago" if target.age else " on an earlier version of these drops"
    if target.scope:
        scope = f"{pluralize(len(target.scope.drops), 'drop')} and {pluralize(target.scope.classes, 'class')}"
        source += f", on the samples of that time ({scope})"
    error = f" (standard error {format_percent(target.standard_error)})" if target.standard_error else ""
    expected = ""
    if (known := target.expected) and known.is_rough:
        expected = (
            f"; trained on today's drops, scratch is expected to reach {format_percent(known.accuracy)} on these "
            f"samples (standard error {format_percent(known.standard_error)})"
        )
    return f"{_format_score(target.accuracy, metric)}{error}: {target.level:g}% of {source}{expected}"


def _format_l_r(record: RunRecord, level: Literal["99", "100"]) -> str:
    """Return L_r, where r is `level`. Return `-` if the target comes from scratch on an earlier dataset."""
    is_comparable = record.result and record.target and record.target.scope is None
    return format_speed_up(record.result.speed_up[level]) if record.result and is_comparable else ABSENT


RUNS = (
    Column("run", lambda run: run.run_id, "left"),
    Column("ended (UTC)", lambda run: format_briefly(run.ended_at, utc_now()), "left", only_wide=True),
    Column("outcome", lambda run: run.ending, "left"),
    Column("val", lambda run: format_percent(run.result.final_score if run.result else None)),
    Column(
        "target",
        lambda run: f"{format_percent(run.target.accuracy)} {run.target.provenance}" if run.target else ABSENT,
        only_wide=True,
    ),
    Column("test", lambda run: format_percent(run.evaluation.score if run.evaluation else None)),
    Column("L_99", lambda run: _format_l_r(run, "99"), only_wide=True),
    Column("L_100", lambda run: _format_l_r(run, "100")),
    Column("used", lambda run: f"{run.result.iterations:,}" if run.result else ABSENT),
    Column("saved", lambda run: f"{run.savings.gross:+,}" if run.savings else ABSENT),
)


def history_table(records: Sequence[RunRecord]) -> Table:
    """Return a table with a line for each run. `used` and `saved` (gross) are iterations. Totals are in the caption."""
    table = grid(RUNS, records)
    table.caption_justify = "left"
    if records:
        metrics = dict.fromkeys(METRIC_NAMES[record.metric] for record in records if record.metric != "accuracy")
        totals = [("val, target and test", " or ".join(metrics))] if metrics else []
        totals += saved_rows("saved in total", total_savings(records), SCRATCH_RUNS)
        table.caption = "\n".join(f"{name}: {text}" if name else text for name, text in totals)
    return table


def record_details(record: RunRecord, ledger: Sequence[RunRecord] = (), candidate: Candidate | None = None) -> Table:
    """Return a run's record as a table. If the ledger is given, add the savings of all the task's runs.

    `candidate` is the run if it awaits approval. Its record has no decision of the gate yet.
    """
    gate = list(_gate_rows(record.decision, "passed"))
    if candidate:
        gate = list(_gate_rows(candidate.gate, candidate.approval.describe(task_argument(record.task), utc_now())))
    saved = "saved if approved" if candidate else "saved"
    rows = [*_run_rows(record, saved, bool(ledger)), *_quality_rows(record), *gate, *_total_rows(record, ledger)]
    return details(f"{record.run_id} {record.ending}", rows)


def saved_rows(name: str, savings: Savings, counted: str = "") -> Rows:
    """Yield the savings compared with s_scratch, and compared with scratch's full training.

    `counted` is a remark on s_scratch, such as `SCRATCH_RUNS`.
    """
    error = f", standard error {savings.standard_error:,.0f}" if savings.standard_error else ""
    yield name, f"{savings.gross:+,} iterations gross, {savings.net:+,.0f} net{error}"
    if savings.baseline:
        s_scratch = f"{savings.baseline:,} iterations after which scratch first reaches its final accuracy"
        yield "", f"compared with the {s_scratch}{counted}"
    if savings.whole:
        whole = f"{savings.gross_whole:+,} gross, {savings.net_whole:+,.0f} net"
        yield "", f"{whole}, compared with the {savings.whole:,} iterations of full trainings from scratch"


def _total_rows(record: RunRecord, ledger: Sequence[RunRecord]) -> Rows:
    """Yield the savings of all runs on the same drops as this run, and the savings of all the task's runs."""
    same = [one for one in ledger if one.dataset_digest == record.dataset_digest and one.purpose == record.purpose]
    if len(same) > 1 and record.savings:  # trials have none
        yield from saved_rows(f"saved by {len(same)} runs on these drops", total_savings(same))
    if ledger:
        yield from saved_rows("saved in total", total_savings(ledger), SCRATCH_RUNS)


def _run_rows(record: RunRecord, saved: str, with_totals: bool) -> Rows:
    escalation = f", escalation {record.attempt}" if record.attempt else ""
    yield "purpose", f"{record.purpose}{escalation}, seed {record.seed}"
    yield "drops", f"{len(record.drops)}, new: {', '.join(record.new_drops) or ABSENT}"
    if record.error or record.outcome == "diverged":
        yield "error", record.error or DIVERGED
    if record.result:
        yield from _result_rows(record, record.result)
    if record.target:
        yield from _target_rows(record, record.target)
    savings = record.savings
    if savings and savings.baseline and record.method == "scratch" and record.scratch is None:
        yield saved, "nothing: the savings of other runs are computed by comparison with runs from scratch"
    elif savings:
        if record.scratch:
            yield "from scratch", _describe_estimate(record.scratch)
        rows = list(saved_rows(saved, savings))
        if record.attempt and not with_totals:
            rows[0] = (rows[0][0], rows[0][1] + "; `retrain status` also counts earlier runs")
        yield from rows


def _result_rows(record: RunRecord, result: Result) -> Rows:
    seconds = f"{result.cost.device_seconds_all_in:,.1f} s on {result.machine.device}"
    yield "iterations", f"{result.iterations:,} at schedule x{record.scale:g}, {seconds}"
    earlier = f"; {format_percent(result.in_scope)} on the target's samples" if result.in_scope is not None else ""
    both = f"{format_percent(result.final_score)}, best {format_percent(result.best_score)}{earlier}"
    if record.metric != "accuracy":
        accuracies = f"{format_percent(result.final_accuracy)}, best {format_percent(result.best_accuracy)}"
        yield "accuracy on val", accuracies
    yield f"{METRIC_NAMES[record.metric]} on val", both
    if record.outcome == "completed" and (first := result.reached_at["100"]):
        yield "", f"first reached after {first:,} iterations, 99% of it after {result.reached_at['99'] or first:,}"


def _target_rows(record: RunRecord, target: Target) -> Rows:
    is_near = is_reached_within_error(record)
    near = "; the run ended below the target, but within its 95% confidence bound" if is_near else ""
    yield "target on val", _describe_target(target, record.metric) + near
    if record.result and target.scope is None:
        speed_ups = record.result.speed_up.items()
        yield "speed-up", ", ".join(f"L_{level} {format_speed_up(value)}" for level, value in speed_ups)


def _quality_rows(record: RunRecord) -> Rows:
    if evaluation := record.evaluation:
        both = (("earlier drops", evaluation.old), ("new drops", evaluation.new))
        parts = [f"{name} {format_percent(part)}" for name, part in both if part is not None]
        by_part = f" ({', '.join(parts)})" if len(parts) > 1 else ""
        if evaluation.metric != "accuracy":
            yield "accuracy on test", format_percent(evaluation.accuracy)
        yield (
            f"{METRIC_NAMES[evaluation.metric]} on test",
            f"{format_percent(evaluation.score)}{by_part}, {pluralize(evaluation.samples, 'sample')}",
        )
        yield from evaluation.weaknesses(record.target is None or record.target.scope is None)
        if comparison := evaluation.comparison:
            difference = comparison.difference
            interval = f"{difference.value:+.2%} [{difference.low:+.2%}, {difference.high:+.2%}]"
            yield (
                "against the champion",
                f"{interval}, negative flips {format_percent(comparison.negative_flips)} (only the champion was right)",
            )


def _gate_rows(decision: Decision | None, passed: str) -> Rows:
    """Yield the gate's findings. `passed` is the text for a run that failed no condition."""
    if decision:
        yield "gate", "; ".join(decision.reasons) or passed
        for note in decision.notes:
            yield "gate undecided", note


def status_details(status: Status) -> Table:
    """Return a task's status as a table."""
    return details(f"task {status.task}", _status_rows(status))


def _status_rows(status: Status) -> Rows:
    champion, baseline = status.champion, status.baseline
    yield "store", _describe_store(status.store)
    yield "champion", champion.run_id if champion else "none yet"
    if champion and champion.evaluation and status.champion_since:
        score = _format_score(champion.evaluation.score, champion.metric)
        yield "", f"{score} on test, champion since {status.champion_since:%Y-%m-%d %H:%M} UTC"
        yield from (("", sentence) for _, sentence in champion.evaluation.weaknesses(status.has_comparable_baseline()))
    if baseline and baseline.result:
        yield "baseline", f"{baseline.run_id}, {_format_score(baseline.result.final_score, baseline.metric)} on val"
        yield from (("", advice) for advice in [status.better_baseline()] if advice)
    yield "waiting", ", ".join(status.waiting) or "no drop"
    attention = list(_attention_rows(status))
    if status.trigger and (AWAITS, status.trigger) not in attention:
        yield "next run", status.trigger
    for drift in status.drift:
        yield "drift", drift
    yield from attention
    if status.amendments:
        run = f": `retrain run --task {task_argument(status.task)}` or the watcher retrains"
        newer = f"; the champion was trained without the newest{'' if status.trigger else run}"
        used = f"{status.amendments:,}, each used by the runs planned after it"
        yield "amendments", used + newer if status.is_amended else used
        yield from (("", amendment) for amendment in status.newest_amendments)
    trials = f", including {pluralize(status.trials, 'trial')}" if status.trials else ""
    yield "runs", f"{status.runs:,}{trials}"
    yield from saved_rows("saved", status.savings, SCRATCH_RUNS)


def _attention_rows(status: Status) -> Rows:
    """Yield the facts that need a person's attention, each with advice."""
    for approval in status.awaiting:
        yield AWAITS, approval.describe(task_argument(status.task), utc_now())
    for unfinished in status.unfinished:
        yield "unfinished", unfinished
    for removed in status.removed:
        yield "removed", removed
    for drop, cause in status.quarantined.items():
        yield "quarantined", f"{drop}: {cause}"
    if status.quarantined:
        report = f"{status.store}/{TaskKeys(status.task).quarantine('DROP')}"
        yield "", f"no run uses a quarantined drop: correct its files, and then delete {report}"
    for name, facts in (("uploaded", status.uploads), ("late files", status.late), ("erased", status.erasures)):
        yield from ((name, fact) for fact in facts)


def _format_score(score: float, metric: Metric) -> str:
    """Return a score, with its metric unless that is accuracy."""
    return format_percent(score) if metric == "accuracy" else f"{METRIC_NAMES[metric]} {format_percent(score)}"


def _describe_store(store: str) -> str:
    """Return a store's address. Mark a missing local folder, because it would look like an empty task."""
    folder = missing_folder(store)
    return f"{folder} (this folder does not exist yet)" if folder else store
