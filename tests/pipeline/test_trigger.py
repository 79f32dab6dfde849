"""The conditions of `trigger`, the texts and times that describe the wait, and the commands that evaluate them."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from support.histories import START, TASK, Past, drop, one_drop
from support.terminal import Ran, retrain
from support.watching import Recorder, TaskUnderTest
from support.workspaces import Workspace, make_task

from retrain.config.automation import Budget, Trigger
from retrain.config.loading import parse_task
from retrain.config.task import Costs
from retrain.errors import TaskError
from retrain.pipeline.next_run import plan_next_run
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.pipeline.status import read_status
from retrain.pipeline.trigger import TriggerState, Waiting, evaluate_trigger, period_of
from retrain.records import Plan
from retrain.store import LocalStore
from retrain.watcher.health import Health
from retrain.watcher.task_watch import TaskWatch

LANDED = START + timedelta(minutes=2)
"""Time at which drop 2 lands, a Thursday at 00:02."""


def evaluate(
    now: datetime = LANDED, past: Past | None = None, saved: tuple[float, ...] = (), **conditions: object
) -> TriggerState:
    """Evaluate a trigger for a second drop of 500 samples. The champion was trained on a first drop of 500."""
    past = past or one_drop().landed(drop(2))
    trigger = Trigger.model_validate(conditions)
    waiting = Waiting(landed=sorted(one.committed_at for one in past.drops[1:]))
    return evaluate_trigger(trigger, past.plan(), waiting, past.records, saved, now)


def test_trigger_without_conditions_never_waits() -> None:
    assert evaluate() == TriggerState((), "")


def test_trigger_names_missing_samples_until_max_wait() -> None:
    waits = evaluate(min_samples=1700, max_wait="1d")
    assert waits.reason == "waits for 1,200 more samples, or until Friday 00:02 UTC"
    assert waits.until == LANDED + timedelta(days=1)
    assert evaluate(min_samples=1700).reason == "waits for 1,200 more samples"
    assert not evaluate(min_samples=500).unmet


def test_max_wait_ends_the_wait_for_more_data() -> None:
    late = evaluate(LANDED + timedelta(days=1), min_samples=1700, min_new_share=0.9, max_wait="1d")
    assert not late.unmet
    assert late.reason == "the oldest drop or correction has waited for trigger.max_wait 1d"
    assert evaluate(LANDED + timedelta(hours=23, minutes=59), min_samples=1700, max_wait="1d").unmet


def test_new_share_is_relative_to_all_samples() -> None:
    assert not evaluate(min_new_share=0.5).unmet
    assert evaluate(min_new_share=0.51).reason == "waits until 51% of the samples are new (50% are)"


def test_quiet_period_counts_from_the_newest_drop() -> None:
    past = one_drop().landed(drop(2), drop(30))
    waits = evaluate(START + timedelta(minutes=40), past, quiet_period="15m")
    assert (waits.reason, waits.until) == (
        "waits until no drop has landed for 15m",
        START + timedelta(minutes=45),
    )
    assert not evaluate(START + timedelta(minutes=45), past, quiet_period="15m").unmet


def test_expected_saving_is_the_mean_of_the_last_runs() -> None:
    assert not evaluate(expected_saving=0.5).unmet, "no saving is known yet"
    assert not evaluate(saved=(0.7, 0.5), expected_saving=0.5).unmet
    assert (
        "the last 2 runs saved 40% of scratch's iterations, less than trigger.expected_saving 50%"
        in evaluate(saved=(0.7, 0.1), expected_saving=0.5).reason
    )


def spent(hours: float, at: datetime) -> Past:
    """Return a history whose champion ended at this time and took this number of device hours, at 2 EUR each."""
    past = one_drop().landed(drop(2))
    [record] = past.records
    assert record.result
    cost = record.result.cost.model_copy(update={"device_seconds_all_in": 3600 * hours})
    past.records[0] = record.model_copy(
        update={
            "ended_at": at,
            "costs": Costs(price_per_device_hour=2, currency="EUR"),
            "result": record.result.model_copy(update={"cost": cost}),
        }
    )
    return past


def test_budget_that_is_spent_waits_for_the_next_period() -> None:
    past = spent(10, LANDED)
    waits = evaluate(past=past, budget={"device_hours": 10, "per": "week"}, min_samples=9999, max_wait="1m")
    assert waits.until == datetime(2026, 1, 5, tzinfo=START.tzinfo)
    late = evaluate(LANDED + timedelta(hours=1), past, budget={"device_hours": 10, "per": "day"}, max_wait="1m")
    assert late.reason == "waits until Friday 00:00 UTC, because 10.0 of budget.device_hours 10 are spent this day"
    assert not evaluate(past=past, budget={"device_hours": 10.1}).unmet
    assert "20.0 of budget.cost 20 are spent this month" in evaluate(past=past, budget={"cost": 20}).reason
    assert not evaluate(LANDED + timedelta(days=31), past, budget={"device_hours": 10}).unmet


@pytest.mark.parametrize(
    ("per", "start", "end"),
    [
        ("day", (2026, 1, 1), (2026, 1, 2)),
        ("week", (2025, 12, 29), (2026, 1, 5)),
        ("month", (2026, 1, 1), (2026, 2, 1)),
    ],
)
def test_periods_match_the_calendar(per: str, start: tuple[int, int, int], end: tuple[int, int, int]) -> None:
    found = period_of(Budget.model_validate({"per": per}), LANDED)
    assert found == tuple(datetime(*day, tzinfo=START.tzinfo) for day in (start, end))


def test_pause_overrides_max_wait() -> None:
    paused = evaluate(LANDED + timedelta(days=9), pause=True, max_wait="1d")
    assert (paused.reason, paused.until) == ("waits until trigger.pause is false", None)


def test_money_budget_without_a_price_is_refused() -> None:
    with pytest.raises(TaskError, match=r"trigger: budget.cost is set, so costs.price_per_device_hour must be set"):
        parse_task("name: pets\ntrigger: {budget: {cost: 3}}", "pets.yaml")


def test_trigger_does_not_change_plan_ids() -> None:
    past = one_drop().landed(drop(2))
    patient = TASK.model_copy(update={"trigger": Trigger(min_samples=7)})
    assert past.plan(task=patient).run_id == past.plan().run_id


@pytest.fixture
def watched(tmp_path: Path) -> TaskUnderTest:
    return TaskUnderTest(make_task(store=str(tmp_path / "store"), trigger={"min_samples": 40, "max_wait": "2d"}))


def test_watcher_starts_a_run_once_enough_samples_landed(watched: TaskUnderTest, tmp_path: Path) -> None:
    workspace = Workspace(LocalStore(tmp_path / "store"), tmp_path / "work")
    first = workspace.land(0, seed=1)
    now = [first.committed_at]
    health, runs = Health(["pets"]), Recorder()
    watch = TaskWatch(watched.task, runs, health, clock=lambda: now[0])

    def waits() -> set[str]:
        samples = [sample for metric in health.collect() for sample in metric.samples]
        return {one.labels["condition"] for one in samples if one.name == "retrain_watcher_trigger_waits" and one.value}

    watch.check_drops()
    watch.advance()
    assert (runs.runs, waits()) == ([], {"min_samples"})
    status = read_status(watched.task, watched.store, lambda: now[0])
    assert status.trigger
    assert status.trigger.startswith("waits for ")
    workspace.land(1, 2, seed=2)
    watch.check_drops()
    watch.advance()
    [run_id] = runs.runs
    assert waits() == set()
    assert watched.plan(run_id).reason.endswith("all conditions of trigger hold")


def test_watcher_starts_a_run_once_max_wait_is_over(watched: TaskUnderTest, tmp_path: Path) -> None:
    workspace = Workspace(LocalStore(tmp_path / "store"), tmp_path / "work")
    now = [workspace.land(0, seed=1).committed_at]
    runs = Recorder()
    watch = TaskWatch(watched.task, runs, Health(["pets"]), clock=lambda: now[0])
    watch.check_drops()
    for hours, started in ((0, 0), (47.9, 0), (0.1, 1)):
        now[0] += timedelta(hours=hours)
        watch.advance()
        assert len(runs.runs) == started


def test_started_run_resumes_regardless_of_the_trigger(watched: TaskUnderTest, tmp_path: Path) -> None:
    Workspace(LocalStore(tmp_path / "store"), tmp_path / "work").land(0, 1, seed=1)
    paused = watched.task.model_copy(update={"trigger": Trigger(pause=True)})
    assert isinstance(plan_next_run(watched.store, paused, Request()), NoRunNeeded)
    started = plan_next_run(watched.store, watched.task.model_copy(update={"trigger": Trigger()}), Request())
    assert isinstance(started, Plan)
    watched.store.run(started.run_id).write_plan(started)
    resumed = plan_next_run(watched.store, paused, Request())
    assert isinstance(resumed, Plan)
    assert resumed.run_id == started.run_id


@pytest.fixture
def command(
    watched: TaskUnderTest, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ran]:
    """Return a function that runs a command on a task for which too few samples have landed."""
    Workspace(LocalStore(tmp_path / "store"), tmp_path / "work").land(0, 1, seed=1)
    settings = watched.task.model_dump() | {"trigger": {"min_samples": 1000}}
    (tmp_path / "pets.json").write_text(json.dumps(settings))
    monkeypatch.setenv("RETRAIN_CACHE", str(tmp_path / "cache"))
    return lambda *arguments: retrain((*arguments, "-t", str(tmp_path / "pets.json")), capfd)


def test_run_reports_its_wait_and_starts_at_once_if_forced(command: Callable[..., Ran]) -> None:
    waits = command("run")
    assert waits.code == 0
    assert waits.out.startswith("not yet: waits for ")
    assert "pass --at-once to start it now" in waits.out
    assert "waits for" in command("status").out
    assert command("run", "--at-once").code == 0
    assert "no drop has landed since champion" in command("run").out
