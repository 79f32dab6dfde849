"""Records as tables for people, or as JSON for programs."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from retrain.records import Drop, Plan, RunRecord
from retrain.status import Status

M = TypeVar("M", bound=BaseModel)
Rows = Iterable[tuple[str, str]]
NONE = "-"


def show(record: M | Sequence[M], table: Callable[..., Table], as_json: bool) -> None:
    """Print a record, or a list of them."""
    if not as_json:
        Console().print(table(record))
    elif isinstance(record, BaseModel):
        typer.echo(record.model_dump_json(indent=2))
    else:
        typer.echo(json.dumps([item.model_dump(mode="json") for item in record], indent=2))


def percent(value: float | None) -> str:
    """Return an accuracy as people read it."""
    return NONE if value is None else f"{value:.2%}"


def times(value: float | None) -> str:
    """Return a speed-up; '/' where the level was not reached, as in the paper's tables."""
    return "/" if value is None else f"x{value:.2f}"


def details(title: str, rows: Rows) -> Table:
    """Return a table of names and values."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows:
        table.add_row(f"[dim]{name}[/dim]", value)
    return table


def _grid(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position < 2 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def drop_table(drops: Sequence[Drop]) -> Table:
    """One line a drop."""
    columns = ("drop", "committed", "classes", "train", "val", "test", "MB")
    return _grid(
        columns,
        (
            (
                drop.id,
                f"{drop.committed_at:%Y-%m-%d %H:%M}",
                str(len(drop.classes)),
                *(str(drop.samples(split)) for split in ("train", "val", "test")),
                f"{sum(shard.size for shard in drop.shards) / 1e6:.1f}",
            )
            for drop in drops
        ),
    )


def drop_details(drop: Drop) -> Table:
    """A drop's manifest."""
    held_out = ", ".join(f"{share:.0%} of train as {split}" for split, share in drop.held_out.items())
    return details(
        f"drop {drop.id}",
        [
            ("digest", drop.digest),
            ("committed", f"{drop.committed_at:%Y-%m-%d %H:%M:%S} UTC"),
            ("held out", held_out or NONE),
            ("shards", ", ".join(f"{shard.name} ({shard.samples})" for shard in drop.shards)),
            *((f"{split} samples", str(drop.samples(split))) for split in drop.counts),
            ("classes", ", ".join(drop.classes)),
        ],
    )


def plan_details(plan: Plan) -> Table:
    """What would be run, and why."""
    return details(f"plan of {plan.run_id}", [("why", plan.reason), ("method", plan.method), *_plan_rows(plan)])


def _plan_rows(plan: Plan) -> Rows:
    recipe, target = plan.recipe, plan.target
    yield "parent", plan.parent or NONE
    yield (
        "dataset",
        f"{len(plan.dataset.drops)} drops, {plan.dataset.samples} samples, {len(plan.dataset.classes)} classes",
    )
    yield "new drops", ", ".join(drop.id for drop in plan.dataset.drops[plan.known :]) or NONE
    aspects = (recipe.initialization, recipe.objective, recipe.sampling)
    yield "recipe", f"{', '.join(aspect.name for aspect in aspects)}, {recipe.schedule.name} x{recipe.schedule.scale}"
    yield "iterations", f"{plan.iterations} at most, evaluated every {plan.evaluate_every}"
    if target:
        source = f"{target.provenance} by {target.baseline_run}, {target.age} drops ago"
        yield "target", f"{percent(target.accuracy)} on val = L_{target.level:g} ({source})"


def history_table(records: Sequence[RunRecord]) -> Table:
    """One line a run."""
    columns = (
        "run",
        "ended",
        "purpose",
        "outcome",
        "val",
        "test",
        "target",
        "iterations",
        "L_99",
        "L_100",
        "saved",
        "champion",
    )
    return _grid(columns, (_history_row(record) for record in records))


def _history_row(record: RunRecord) -> tuple[str, ...]:
    result, target = record.result, record.target
    return (
        record.run_id,
        f"{record.ended_at:%m-%d %H:%M}",
        record.purpose,
        record.outcome,
        percent(result.final_accuracy if result else None),
        percent(record.evaluation.accuracy if record.evaluation else None),
        f"{percent(target.accuracy)} {target.provenance}" if target else NONE,
        str(result.iterations) if result else NONE,
        times(result.speed_up["99"]) if result and target else NONE,
        times(result.speed_up["100"]) if result and target else NONE,
        f"{record.savings.gross:+d}" if record.savings else NONE,
        {True: "promoted", False: "refused", None: NONE}[record.decision.promoted if record.decision else None],
    )


def record_details(record: RunRecord) -> Table:
    """Everything that people ask about one run."""
    return details(f"{record.run_id} {record.outcome}", _record_rows(record))


def _record_rows(record: RunRecord) -> Rows:
    yield "purpose", f"{record.purpose}, attempt {record.attempt}, seed {record.seed}"
    yield "drops", f"{len(record.drops)}, new: {', '.join(record.new_drops) or NONE}"
    if record.error:
        yield "error", record.error
    yield from _result_rows(record)
    if evaluation := record.evaluation:
        parts = f"old {percent(evaluation.old)}, new {percent(evaluation.new)}"
        yield "test accuracy", f"{percent(evaluation.accuracy)} ({parts}; {evaluation.samples} samples)"
        if comparison := evaluation.comparison:
            difference = comparison.difference
            interval = f"{difference.value:+.2%} [{difference.low:+.2%}, {difference.high:+.2%}]"
            yield "against champion", f"{interval}, negative flips {percent(comparison.negative_flips)}"
    if savings := record.savings:
        yield "saved", f"{savings.gross:+d} iterations gross, {savings.net:+.0f} net, of {savings.baseline}"
    if decision := record.decision:
        yield "gate", "promoted" if decision.promoted else f"refused: {'; '.join(decision.reasons)}"


def _result_rows(record: RunRecord) -> Rows:
    result, target = record.result, record.target
    if result is None:
        return
    yield "val accuracy", f"{percent(result.final_accuracy)} (best {percent(result.best_accuracy)})"
    if target:
        source = f"{target.provenance} by {target.baseline_run}, {target.age} drops ago"
        yield "target", f"{percent(target.accuracy)} = L_{target.level:g} ({source})"
        yield "speed-up", f"L_99 {times(result.speed_up['99'])}, L_100 {times(result.speed_up['100'])}"
    seconds = result.cost.device_seconds_all_in
    yield "iterations", f"{result.iterations} at schedule x{record.scale:g}, {seconds:.1f} s on {result.machine.device}"


def status_details(status: Status) -> Table:
    """A task at a glance."""
    return details(f"task {status.task}", _status_rows(status))


def _status_rows(status: Status) -> Rows:
    yield "store", status.store
    champion, baseline = status.champion, status.baseline
    if champion and status.champion_since:
        accuracy = percent(champion.evaluation.accuracy if champion.evaluation else None)
        yield "champion", f"{champion.run_id}, {accuracy} on test, since {status.champion_since:%Y-%m-%d %H:%M} UTC"
    else:
        yield "champion", "none yet"
    if baseline and baseline.result:
        yield "baseline", f"{baseline.run_id}, {percent(baseline.result.final_accuracy)} on val"
    yield "waiting", ", ".join(status.waiting) or "no drop"
    yield "runs", str(status.runs)
    yield "saved", f"{status.savings.gross:+d} iterations gross, {status.savings.net:+.0f} net"
