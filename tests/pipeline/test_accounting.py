"""Savings over a task's history, recomputed from raw JSON records by independent arithmetic."""

import json
import math
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.histories import Past, drop, one_drop
from support.monitoring import samples
from typer.testing import CliRunner

from retrain.cli import app
from retrain.cli.formatting import record_details
from retrain.monitoring.metrics import render
from retrain.monitoring.report.figures import cumulative, headline
from retrain.pipeline.planning import Request
from retrain.records import RunRecord
from retrain.records.ledger import total_savings
from retrain.store import LocalStore
from retrain.store.task_store import TaskStore

EPOCHS, BATCH = 10, 10
"""Epochs and batch size of the histories' task."""
SAVINGS = ("baseline", "whole", "used", "used_all_in", "gross", "net", "gross_whole", "net_whole", "standard_error")


def make_past() -> tuple[Past, dict[str, int]]:
    """Return a history of six drops, and the drops' sizes.

    It has a missed target and its escalation, a refusal, a trial, a calibration, a rollback, a plateau and a failure.
    """
    sizes = {f"d-{number}": size for number, size in enumerate((500, 300, 200, 400, 100, 600), start=1)}
    past = one_drop()
    past.landed(drop(2, 300))
    past.ended(past.plan(), "missed", promoted=None, iterations=150, reached=False)
    past.ended(past.plan(), iterations=210)
    past.landed(drop(3, 200))
    past.ended(past.plan(Request("naive", "trial")), promoted=None, iterations=333)
    past.ended(past.plan(), promoted=False, iterations=120)
    past.landed(drop(4, 400))
    past.ended(past.plan(Request(purpose="calibrate")), promoted=None, iterations=1400)
    before = past.champion
    past.ended(past.plan(), iterations=190, evaluated=900)
    past.champion = before  # the user rolls back, and the records of the runs do not change
    past.landed(drop(5, 100))
    past.ended(past.plan(), "plateau", iterations=260, reached=False)
    past.landed(drop(6, 600))
    past.ended(past.plan(), "failed", promoted=None)
    past.ended(past.plan(), iterations=410)
    again = past.plan(Request("naive"))
    past.ended(again, iterations=95)
    return past, sizes


def recompute(raw: Sequence[dict[str, Any]], sizes: dict[str, int]) -> dict[str, float]:
    """Return the sums of all savings, computed from a ledger's raw records, oldest first."""
    total = dict.fromkeys(SAVINGS, 0.0)
    scratch_runs: list[tuple[list[str], int, int]] = []
    replaced: list[list[str]] = []
    for record in raw:
        if record["purpose"] == "trial":
            continue
        used = record["result"]["iterations"] if record["result"] else 0
        images = record["result"]["cost"]["evaluated_images"] if record["result"] else 0
        all_in = used + images / BATCH / 3
        baseline = whole = 0.0
        error = 0.0
        completed = record["method"] == "scratch" and record["outcome"] == "completed"
        if completed:
            scratch_runs.append((record["drops"], record["result"]["reached_at"]["100"], used))
        if completed and record["purpose"] == "retrain" and record["drops"] not in replaced:
            baseline = whole = all_in = used
            replaced.append(record["drops"])
        is_promoted = record["decision"] is not None and record["decision"]["promoted"]
        if record["outcome"] == "reached" and is_promoted and record["drops"] not in replaced:
            replaced.append(record["drops"])
            whole = EPOCHS * sum(sizes[name] for name in record["drops"]) / BATCH
            same = [took for drops, took, _ in scratch_runs if drops == record["drops"]]
            if same:
                baseline = sum(same) / len(same)
            else:
                shares = [took / schedule for _, took, schedule in scratch_runs]
                share = (0.62 + sum(shares)) / (1 + len(shares))  # the typical share, 0.62, counts as one more run
                variance = ((0.3 * share) ** 2 + sum((one - share) ** 2 for one in shares)) / len(shares)
                baseline, error = share * whole, math.sqrt(variance) * whole
        is_counted = record["purpose"] == "retrain"
        total["baseline"] += baseline
        total["whole"] += whole
        total["used"] += used
        total["used_all_in"] += all_in
        total["gross"] += baseline - used if is_counted else 0
        total["net"] += baseline - all_in
        total["gross_whole"] += whole - used if is_counted else 0
        total["net_whole"] += whole - all_in
        total["standard_error"] += error
    return total


def raw_of(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    return [json.loads(record.to_bytes()) for record in records]


def test_running_sums_equal_recomputed_sums_at_every_run() -> None:
    past, sizes = make_past()
    assert [record.ending for record in past.records] == [
        *("promoted", "missed", "promoted", "trial", "refused", "calibrated", "promoted", "promoted", "failed"),
        *("promoted", "promoted"),
    ]
    for length in range(len(past.records) + 1):
        records = past.records[:length]
        rounding = 0.5 * length  # an estimate is rounded to whole iterations in each record
        expected = recompute(raw_of(records), sizes)
        assert total_savings(records).model_dump() == pytest.approx(expected, abs=rounding)


def test_accounting_equals_sums_by_hand() -> None:
    """Check the first seven savings.

    On d-1, scratch reached its accuracy after 200 of 250 iterations, a share of 80%. The typical share is 62%, and the
    mean of both is 71%. The schedule for the first two drops has 800 iterations, so the estimate for scratch is 568
    iterations. The calibration on four drops measured 200 iterations.
    """
    past, _ = make_past()
    of = [record.savings for record in past.records]
    assert [savings.baseline if savings else None for savings in of[:7]] == [250, 0, 568, None, 0, 0, 200]
    assert [savings.gross if savings else None for savings in of[:7]] == [0, -150, 358, None, -120, 0, 10]
    assert [savings.net if savings else None for savings in of[:7]] == [0, -160, 348, None, -130, -1410, -20]
    assert of[7].gross == -260, "a plateau below its target has saved nothing, though it was promoted"
    assert of[10].gross == -95, "an earlier run on these drops has already replaced a scratch run"


@pytest.mark.parametrize(
    ("outcome", "reached", "promoted", "baseline"),
    [
        ("reached", True, True, 710),
        ("reached", True, False, 0),
        ("plateau", False, True, 0),
        ("diverged", True, True, 0),
    ],
)
def test_only_a_promoted_model_at_its_target_replaces_scratch(
    outcome: str, reached: bool, promoted: bool, baseline: int
) -> None:
    past = one_drop().landed(drop(2))
    record = past.ended(past.plan(), outcome, promoted=promoted, reached=reached)
    assert record.savings.baseline == baseline


@pytest.mark.parametrize(("below", "expected"), [(0.01, True), (0.0, False)])
def test_show_names_a_score_below_target_but_within_its_bound(below: float, expected: bool) -> None:
    past = one_drop().landed(drop(2))
    record = past.ended(past.plan())
    score = record.target.accuracy - below
    record = record.model_copy(update={"result": record.result.model_copy(update={"in_scope": score})})
    console = Console(width=200, file=StringIO())
    console.print(record_details(record))
    assert ("ended below the target, but within its 95% confidence bound" in console.file.getvalue()) == expected


def test_plan_without_estimate_is_compared_with_its_baseline() -> None:
    past = one_drop().landed(drop(2))
    savings = past.ended(past.plan().model_copy(update={"scratch": None})).savings
    assert (savings.baseline, savings.whole, savings.standard_error) == (200, 200, 0.0)


def test_all_views_show_equal_savings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    past, sizes = make_past()
    store = TaskStore(LocalStore(tmp_path / "store"), "pets")
    for record in past.records:
        store.ledger.write(record)
    (tmp_path / "pets.yaml").write_text("name: pets\nstore: store\n")
    monkeypatch.chdir(tmp_path)
    expected = recompute(raw_of(past.records), sizes)
    rounded = pytest.approx(expected, abs=0.5 * len(past.records))
    total = total_savings(past.records)
    status = json.loads(CliRunner().invoke(app, ["status", "--task", "pets.yaml", "--json"]).stdout)
    assert status["savings"] == rounded
    for command in ("status", "history"):
        shown = CliRunner().invoke(app, [command, "--task", "pets.yaml"]).stdout
        assert f"{total.gross:+,} iterations gross, {total.net:+,.0f} net" in shown
        assert f"{total.gross_whole:+,} gross, {total.net_whole:+,.0f} net" in shown
    assert headline(past.records).total == cumulative(past.records)[-1].savings == total
    served: dict[str, float] = {}
    for (name, _), value in samples(render(past.records).decode()).items():
        served[name] = served.get(name, 0) + value
    named = {
        "baseline": "retrain_baseline_iterations_total",
        "whole": "retrain_whole_scratch_iterations_total",
        "used": "retrain_used_iterations_total",
        "used_all_in": "retrain_used_all_in_iterations_total",
        "gross": "retrain_saved_gross_iterations",
        "net": "retrain_saved_net_iterations",
        "gross_whole": "retrain_saved_whole_gross_iterations",
        "net_whole": "retrain_saved_whole_net_iterations",
        "standard_error": "retrain_saved_standard_error_iterations",
    }
    assert {figure: served[name] for figure, name in named.items()} == rounded
