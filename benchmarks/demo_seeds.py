"""Run the demo's four weeks with many seeds: measure the savings, and compare the accuracy with scratch.

For each seed of the task, the drops of `make demo` land one after the other. After each retraining, a trial from
scratch is trained on the same data. The ledger does not count trials in its savings. At the end of a seed, the
benchmark writes one JSON line. It does not run a seed again if the seed has a line. `--summary` prints the means.
"""

import json
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from lib.report import ROOT, parser, report

from retrain.cli.demo import WEEKS, write_weeks
from retrain.config.loading import load_task
from retrain.config.task import Task
from retrain.data.packing import pack
from retrain.pipeline import stages
from retrain.pipeline.context import Context
from retrain.pipeline.planning import Request
from retrain.records import RunRecord
from retrain.records.ledger import total_savings
from retrain.store import open_store
from retrain.store.task_store import TaskStore
from retrain.training.progress import Observers

TASK = ROOT / "tasks" / "demo.yaml"
LINES = ROOT / "docs" / "evidence" / "demo" / "seeds.jsonl"
Line = dict[str, Any]


def run_seed(seed: int, overrides: list[str], folder: Path) -> Line:
    """Run the demo's weeks with one seed, and scratch on the same data. Return the results as a line."""
    since = time.monotonic()
    task = load_task(str(TASK), [f"seed={seed}", *overrides])
    store = TaskStore(open_store(str(folder / "store"), None), task.name)
    context = Context(store, torch.device("cpu"), folder / "cache", Observers())
    weeks = []
    for week in write_weeks(folder):
        pack(week, task, store, drop_id=week.name)
        retrained = _run(context, task, Request())
        is_scratch = retrained.method == "scratch"
        scratch = retrained if is_scratch else _run(context, task, Request("scratch", "trial"))
        weeks.append(_describe(retrained, scratch))
    return {
        "seed": seed,
        **_sum(weeks, store.ledger.read()),
        "seconds": round(time.monotonic() - since),
        "weeks": weeks,
    }


def _run(context: Context, task: Task, request: Request) -> RunRecord:
    record = stages.run_task(context, task, request)
    if not isinstance(record, RunRecord):
        raise RuntimeError(str(record))
    return record


def _describe(retrained: RunRecord, scratch: RunRecord) -> Line:
    """Return the cost and result of one week's retraining, and the cost and result of scratch on the same data."""
    scratch_result, saved = scratch.result, retrained.savings
    if not (retrained.result and retrained.evaluation and scratch_result and scratch.evaluation and saved):
        raise RuntimeError(f"{retrained.run_id} or {scratch.run_id} has no result or evaluation")
    return {
        "method": retrained.method,
        "outcome": retrained.outcome,
        "ending": retrained.ending,
        "credited": saved.baseline > 0,
        "used": saved.used,
        "used_all_in": round(saved.used_all_in, 1),
        "s_scratch": scratch_result.reached_at["100"],
        "s_scratch_estimate": retrained.scratch.iterations if retrained.scratch else None,
        "s_scratch_error": retrained.scratch.standard_error if retrained.scratch else None,
        "whole": scratch_result.iterations,
        "val": retrained.result.final_accuracy,
        "target": retrained.target.accuracy if retrained.target else None,
        "val_scratch": scratch_result.final_accuracy,
        "test": retrained.evaluation.accuracy,
        "test_scratch": scratch.evaluation.accuracy,
        "test_images": retrained.evaluation.samples,
    }


def _sum(weeks: list[Line], records: list[RunRecord]) -> Line:
    """Return a seed's net savings twice: as its ledger states them, and measured against the trials from scratch."""
    continued = [week for week in weeks if week["method"] == "continuous"]
    ledger = total_savings(record for record in records if record.purpose == "retrain")
    used = sum(week["used_all_in"] for week in continued)
    return {
        "all_credited": all(week["credited"] for week in weeks),
        "net_ledger": round(ledger.net, 1),
        "net_ledger_error": round(ledger.standard_error, 1),
        "net_measured": round(sum(week["s_scratch"] for week in continued) - used, 1),
        "net_whole": round(sum(week["whole"] for week in continued) - used, 1),
        "used_of_s_scratch": round(used / sum(week["s_scratch"] for week in continued), 3) if continued else None,
        "test_difference": round(mean(week["test"] - week["test_scratch"] for week in weeks[1:]), 4),
    }


def summarize(lines: list[Line]) -> Line:
    """Return counts and means over all seeds, and by week."""
    continued = [[line["weeks"][week] for line in lines] for week in range(1, len(WEEKS))]
    every = [week for weeks in continued for week in weeks]
    used, s_scratch = (sum(week[name] for week in every) for name in ("used_all_in", "s_scratch"))
    return {
        "seeds": len(lines),
        "every target reached": sum(line["all_credited"] for line in lines),
        "positive net saving by the ledger": sum(line["net_ledger"] > 0 for line in lines),
        "positive net saving against measured scratch": sum(line["net_measured"] > 0 for line in lines),
        "both": sum(line["all_credited"] and line["net_ledger"] > 0 and line["net_measured"] > 0 for line in lines),
        "mean net by the ledger": round(mean(line["net_ledger"] for line in lines)),
        "mean net against measured scratch": round(mean(line["net_measured"] for line in lines)),
        "used of measured s_scratch": round(used / s_scratch, 3),
        "used of scratch's full training": round(used / sum(week["whole"] for week in every), 3),
        "test, champion minus scratch": round(mean(week["test"] - week["test_scratch"] for week in every), 4),
        "seconds a seed": round(mean(line["seconds"] for line in lines)),
        "weeks": [_summarize_week(number, weeks) for number, weeks in enumerate(continued, start=2)],
    }


def _summarize_week(number: int, weeks: list[Line]) -> Line:
    outcomes = [f"{week['outcome']}, {week['ending']}" for week in weeks]
    return {
        "week": number,
        "outcomes": {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))},
        "used all in": round(mean(week["used_all_in"] for week in weeks)),
        "s_scratch measured": round(mean(week["s_scratch"] for week in weeks)),
        "s_scratch estimated": round(mean(week["s_scratch_estimate"] for week in weeks)),
        "whole": weeks[0]["whole"],
        "test": round(mean(week["test"] for week in weeks), 4),
        "test of scratch": round(mean(week["test_scratch"] for week in weeks), 4),
    }


HEAD = (
    "seed",
    "credited",
    "used",
    "s_scratch",
    "share",
    "net by the ledger",
    "net measured",
    "test",
    "test of scratch",
)


def format_table(lines: list[Line]) -> str:
    """Return a Markdown table with one row for each seed. Test accuracies are means over weeks 2 to 4, in percent."""
    rows = [HEAD, ("---:",) * len(HEAD), *map(_format_row, sorted(lines, key=lambda line: line["seed"]))]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _format_row(line: Line) -> tuple[str, ...]:
    weeks = line["weeks"][1:]
    used, s_scratch = sum(week["used_all_in"] for week in weeks), sum(week["s_scratch"] for week in weeks)
    champions, scratch = (100 * mean(week[name] for week in weeks) for name in ("test", "test_scratch"))
    return (
        str(line["seed"]),
        f"{sum(week['credited'] for week in weeks)} of {len(weeks)}",
        f"{used:,.0f}",
        f"{s_scratch:,}",
        f"{used / s_scratch:.0%}",
        f"{line['net_ledger']:+,.0f} ± {line['net_ledger_error']:,.0f}",
        f"{line['net_measured']:+,.0f}",
        f"{champions:.1f}",
        f"{scratch:.1f}",
    )


def main() -> None:
    """Run the seeds that have no line yet, and print the summary."""
    options = parser(__doc__)
    options.add_argument(
        "--lines", type=Path, default=LINES, help="file with one JSON line per seed; results are appended"
    )
    options.add_argument("--seeds", type=int, default=20, help="number of seeds, from 0 on")
    options.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="override a field")
    options.add_argument("--summary", action="store_true", help="only print the summary")
    options.add_argument("--table", action="store_true", help="also print the table of docs/evidence/demo.md")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    lines = [json.loads(line) for line in chosen.lines.read_text().splitlines()] if chosen.lines.exists() else []
    chosen.lines.parent.mkdir(parents=True, exist_ok=True)
    for seed in [] if chosen.summary else sorted(set(range(chosen.seeds)) - {line["seed"] for line in lines}):
        with tempfile.TemporaryDirectory(prefix="retrain-demo-") as folder:
            lines.append(run_seed(seed, chosen.set, Path(folder)))
        with chosen.lines.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
    if chosen.table:
        print(format_table(lines))
    report(summarize(lines), chosen.output)


if __name__ == "__main__":
    main()
