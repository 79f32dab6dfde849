"""The exporter's running sums match sums that the tests compute, and all outputs give the same totals."""

import json
import random
import subprocess
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from support import known_ledger, monitoring
from support.browsers import card, chromium, new_page
from support.processes import preloaded_retrain
from support.workspaces import Workspace, make_task

from retrain.config.task import Task
from retrain.monitoring.metrics import render
from retrain.pipeline import stages
from retrain.pipeline.planning import Request
from retrain.records import RunRecord
from retrain.store import LocalStore

PETS = known_ledger.pets()


def served(records: list[RunRecord]) -> dict[tuple[str, monitoring.Labels], float]:
    """Return the values that `retrain metrics` prints for these records, by metric and labels."""
    return monitoring.samples(render(records).decode())


def key_of(name: str, **labels: str) -> tuple[str, monitoring.Labels]:
    """Return the key of a value in the result of `served`."""
    return name, frozenset(labels.items())


def test_totals_are_the_sums_over_records() -> None:
    """The continuous runs took 100 (target missed), 150 and 250 iterations. Scratch takes 500.

    The evaluations of each run count as 10 iterations.
    """
    values = served(PETS)
    continuous = {"task": "pets", "method": "continuous"}
    assert values[key_of("retrain_baseline_iterations_total", **continuous)] == 500 + 500
    assert values[key_of("retrain_used_iterations_total", **continuous)] == 100 + 150 + 250
    assert values[key_of("retrain_used_all_in_iterations_total", **continuous)] == 110 + 160 + 260
    assert values[key_of("retrain_saved_gross_iterations", **continuous)] == -100 + 350 + 250
    assert values[key_of("retrain_saved_net_iterations", **continuous)] == -110 + 340 + 240
    scratch = {"task": "pets", "method": "scratch"}
    assert values[key_of("retrain_saved_gross_iterations", **scratch)] == 0
    assert values[key_of("retrain_saved_net_iterations", **scratch)] == -510


def test_savings_in_other_units_use_each_runs_pace_and_rates() -> None:
    values = served(PETS)
    labels = {"task": "pets", "method": "continuous"}
    seconds = (-110 + 340 + 240) * known_ledger.SECONDS
    assert values[key_of("retrain_saved_net_device_seconds", **labels)] == pytest.approx(seconds)
    assert values[key_of("retrain_saved_net_energy_joules", **labels)] == pytest.approx(seconds * 300)
    assert values[key_of("retrain_saved_net_co2_grams", **labels)] == pytest.approx(seconds * 300 / 3.6e6 * 250)
    assert values[key_of("retrain_saved_net_cost_eur", **labels)] == pytest.approx(seconds / 3600 * 1.8)
    assert values[key_of("retrain_saved_gross_flops", **labels)] == pytest.approx(
        (-100 + 350 + 250) * known_ledger.FLOPS
    )
    assert values[key_of("retrain_baseline_device_seconds_total", **labels)] == pytest.approx(
        1000 * known_ledger.SECONDS
    )


def test_savings_compared_with_full_scratch_have_all_units() -> None:
    values = served(PETS)
    labels = {"task": "pets", "method": "continuous"}
    net = -110 + 340 + 240 + 2 * known_ledger.WHOLE
    whole = 1000 + 2 * known_ledger.WHOLE
    seconds = net * known_ledger.SECONDS
    assert values[key_of("retrain_saved_whole_net_iterations", **labels)] == net
    assert values[key_of("retrain_saved_whole_net_energy_joules", **labels)] == pytest.approx(seconds * 300)
    assert values[key_of("retrain_saved_whole_net_cost_eur", **labels)] == pytest.approx(seconds / 3600 * 1.8)
    assert values[key_of("retrain_saved_whole_net_co2_grams", **labels)] == pytest.approx(seconds * 300 / 3.6e6 * 250)
    assert values[key_of("retrain_whole_scratch_flops_total", **labels)] == pytest.approx(whole * known_ledger.FLOPS)


def test_two_currencies_are_two_metrics() -> None:
    costs = known_ledger.COSTS.model_copy(update={"currency": "USD"})
    values = served([*PETS, known_ledger.run(7, 100, 500).model_copy(update={"costs": costs})])
    labels = {"task": "pets", "method": "continuous"}
    assert values[key_of("retrain_cost_usd_total", **labels)] == pytest.approx(220 / 3600 * 1.8)
    assert (
        values[key_of("retrain_cost_eur_total", **labels)] == served(PETS)[key_of("retrain_cost_eur_total", **labels)]
    )


def test_consumed_compute_includes_trials_and_evaluation() -> None:
    values = served(PETS)
    naive = {"task": "pets", "method": "naive"}
    assert values[key_of("retrain_device_seconds_total", **naive)] == 300 * known_ledger.SECONDS + 20
    assert values[key_of("retrain_flops_total", **naive)] == 300 * known_ledger.FLOPS + 1e10
    assert values[key_of("retrain_energy_joules_total", **naive)] == 300 * (300 * known_ledger.SECONDS + 20)
    assert key_of("retrain_saved_net_iterations", **naive) not in values  # a trial replaces no retraining


def test_new_price_does_not_change_earlier_costs() -> None:
    labels = {"task": "pets", "method": "continuous"}
    dearer = known_ledger.run(7, 100, 500).model_copy(
        update={"costs": known_ledger.COSTS.model_copy(update={"price_per_device_hour": 3.6})}
    )
    before, after = served(PETS), served([*PETS, dearer])
    rise = after[key_of("retrain_cost_eur_total", **labels)] - before[key_of("retrain_cost_eur_total", **labels)]
    assert rise == pytest.approx((100 * known_ledger.SECONDS + 20) / 3600 * 3.6)


def without_energy(record: RunRecord) -> RunRecord:
    """Return the record without measured energy."""
    if record.result is None:
        return record
    cost = record.result.cost.model_copy(update={"measured_joules": None})
    return record.model_copy(update={"result": record.result.model_copy(update={"cost": cost})})


def test_energy_and_money_are_absent_without_rates() -> None:
    bare = [without_energy(record).model_copy(update={"costs": Task(name="pets").costs}) for record in PETS]
    names = {name for name, _ in served(bare)}
    assert not {name for name in names if "joules" in name or "co2" in name or "cost" in name}
    assert "retrain_saved_net_device_seconds" in names


def test_durations_of_runs_and_stages_are_histograms() -> None:
    values = served(PETS)
    stage = {"task": "pets", "stage": "train"}
    assert values[key_of("retrain_stage_duration_seconds_count", **stage)] == len(PETS)
    assert values[key_of("retrain_stage_duration_seconds_sum", **stage)] == (400 + 500 + 100 + 150 + 300 + 250) * 2.0
    assert values[key_of("retrain_stage_duration_seconds_bucket", le="300.0", **stage)] == 2
    hours = [2.0, 0.5, 25.0]
    slow = [
        run.model_copy(update={"ended_at": run.started_at + timedelta(hours=time), "method": "naive"})
        for run, time in zip(PETS, hours, strict=False)
    ]
    run = {"task": "pets", "method": "naive"}
    values = served(slow)
    assert values[key_of("retrain_run_duration_seconds_sum", **run)] == sum(hours) * 3600
    by_bound = {
        bound: values[key_of("retrain_run_duration_seconds_bucket", le=bound, **run)]
        for bound in ("1800.0", "86400.0", "+Inf")
    }
    assert by_bound == {"1800.0": 1, "86400.0": 2, "+Inf": 3}


def test_absent_outcomes_are_served_as_zero() -> None:
    values = served(PETS)
    runs = {"task": "pets", "method": "continuous", "purpose": "retrain"}
    expected = {"reached": 2, "missed": 1, "completed": 0, "diverged": 0, "failed": 0}
    assert {outcome: values[key_of("retrain_runs_total", outcome=outcome, **runs)] for outcome in expected} == expected
    assert values[key_of("retrain_gate_decisions_total", task="pets", decision="refused")] == 1


def test_newest_values_come_from_the_newest_run_of_their_kind() -> None:
    values = served(PETS)
    assert values[key_of("retrain_speed_up_ratio", task="pets", level="100")] == 500 / 250
    assert values[key_of("retrain_speed_up_ratio", task="pets", level="99")] == 500 / 225
    assert values[key_of("retrain_baseline_age_drops", task="pets")] == 2
    assert values[key_of("retrain_target_met", task="pets")] == 1
    assert values[key_of("retrain_promoted", task="pets")] == 0
    assert values[key_of("retrain_last_run_timestamp_seconds", task="pets")] == PETS[-1].ended_at.timestamp()
    assert values[key_of("retrain_last_success_timestamp_seconds", task="pets")] == PETS[3].ended_at.timestamp()


def test_value_missing_in_the_newest_run_is_not_served() -> None:
    missed = known_ledger.run(7, 250, outcome="missed", aim=known_ledger.target(), promoted=True)
    values = served([*PETS, missed])
    assert key_of("retrain_speed_up_ratio", task="pets", level="100") not in values
    assert values[key_of("retrain_target_met", task="pets")] == 0


def test_target_met_is_decided_by_the_last_escalation() -> None:
    attempt = known_ledger.run(7, 250, outcome="missed", aim=known_ledger.target())
    assert served([*PETS, attempt])[key_of("retrain_target_met", task="pets")] == 1
    scratch = known_ledger.run(8, 400, 400, "completed", method="scratch", promoted=True, attempt=1)
    assert served([*PETS, attempt, scratch])[key_of("retrain_target_met", task="pets")] == 0


def test_recent_savings_cover_the_newest_five_runs() -> None:
    key = key_of("retrain_recent_saved_net_iterations", task="pets")
    assert served(PETS)[key] == 0 - 510 - 110 + 340 + 240
    assert served([*PETS, known_ledger.run(7, 100, 500)])[key] == -510 - 110 + 340 + 240 + 390
    assert key not in served(PETS[:4])


def test_totals_do_not_depend_on_the_order_of_records() -> None:
    expected = served(PETS)
    for seed in range(10):
        shuffled = random.Random(seed).sample(PETS, len(PETS))
        assert served(shuffled) == pytest.approx(expected)


def test_counters_never_fall_as_the_ledger_grows() -> None:
    grown = [served(PETS[:length]) for length in range(len(PETS) + 1)]
    for before, after in pairwise(grown):
        counters = {key for key in before if key[0].endswith("_total")}
        assert counters <= after.keys()
        assert all(after[key] >= before[key] for key in counters)


def real_runs(folder: Path) -> tuple[Task, list[RunRecord]]:
    """Return a task and its records of real runs: scratch, a calibration, and a continuous run."""
    workspace, task = Workspace(LocalStore(folder / "store"), folder), make_task(store=str(folder / "store"))
    workspace.land(0, 1, 2, seed=1)
    stages.run_task(workspace.context, task, Request())
    workspace.land(3, 4, seed=2)
    stages.run_task(workspace.context, task, Request(purpose="calibrate"))
    stages.run_task(workspace.context, task, Request())
    return task, workspace.store.ledger.read()


def generated_runs(folder: Path) -> tuple[Task, list[RunRecord]]:
    """Return a task and more records than its page lists. One record in ten is a calibration."""
    records = [
        known_ledger.run(n, 400, 0, "completed", "big", "scratch", "calibrate")
        if n % 10 == 0
        else known_ledger.run(n, n % 300 + 100, 500, task="big", aim=known_ledger.target(), promoted=n % 3 > 0)
        for n in range(2_500)
    ]
    path = folder / "store" / "big" / "ledger"
    path.mkdir(parents=True)
    for record in records:
        (path / f"{record.run_id}.json").write_bytes(record.to_bytes())
    return Task(name="big", store=str(folder / "store")), records


METRICS = {
    "gross": "retrain_saved_gross_iterations",
    "net": "retrain_saved_net_iterations",
    "baseline": "retrain_baseline_iterations_total",
    "used": "retrain_used_iterations_total",
}


CARDS = {"gross": "Iterations saved, gross", "net": "Iterations saved, net", "baseline": "Training from scratch"}


def totals_from_cli(task: Task, folder: Path) -> dict[str, float]:
    file = folder / f"{task.name}.yaml"
    file.write_text(f"name: {task.name}\nstore: {task.store}\n")
    command = [preloaded_retrain(), "status", "--task", str(file), "--json"]
    savings = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["savings"]
    return {figure: savings[figure] for figure in METRICS}


def totals_from_metrics(values: dict[tuple[str, monitoring.Labels], float], task: Task) -> dict[str, float]:
    task_values = [(name, value) for (name, labels), value in values.items() if ("task", task.name) in labels]
    return {figure: sum(value for name, value in task_values if name == metric) for figure, metric in METRICS.items()}


def totals_from_prometheus(url: str, task: Task) -> dict[str, float]:
    asked = {f: monitoring.query(url, f'sum({metric}{{task="{task.name}"}})') for f, metric in METRICS.items()}
    return {figure: sum(values.values()) for figure, values in asked.items()}


def totals_from_page(browser: Browser, url: str) -> dict[str, float]:
    page = new_page(browser)
    page.goto(url)
    totals = {figure: card(page, name) for figure, name in CARDS.items()}
    page.close()
    return totals


def test_cli_exporter_prometheus_and_page_give_equal_totals(tmp_path: Path) -> None:
    ledgers = [real_runs(tmp_path), generated_runs(tmp_path)]
    tasks = [task for task, _ in ledgers]
    with (
        monitoring.exporter(tasks, every=60) as address,
        monitoring.prometheus(tmp_path, [address]) as prometheus,
        chromium() as browser,
    ):
        served_now = monitoring.samples(monitoring.get(f"http://{address}/metrics"))
        monitoring.wait_for(lambda: monitoring.query(prometheus, "retrain_ledger_records"), "a scrape")
        for task, records in ledgers:
            parts = [record.savings for record in records if record.savings]
            expected = {figure: pytest.approx(sum(getattr(part, figure) for part in parts)) for figure in METRICS}
            assert totals_from_metrics(served_now, task) == expected
            assert totals_from_prometheus(prometheus, task) == expected
            assert totals_from_cli(task, tmp_path) == expected
            page = totals_from_page(browser, f"http://{address}/tasks/{task.name}")
            assert page == {figure: expected[figure] for figure in CARDS}


def test_number_of_series_is_independent_of_runs() -> None:
    few, many = (
        served([known_ledger.run(number, 100, 500, promoted=True) for number in range(runs)]) for runs in (10, 1000)
    )
    assert few.keys() == many.keys()
