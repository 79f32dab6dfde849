"""Claims assign each drop to only one run, even under races and crashes."""

import threading
from pathlib import Path

import pytest
from support.watching import DATA, TaskUnderTest

from retrain.config.task import Task
from retrain.pipeline.next_run import plan_next_run
from retrain.pipeline.planning import Request
from retrain.records import Plan
from retrain.store import LocalStore
from retrain.store.claims import Claims


@pytest.fixture
def watched(tmp_path: Path) -> TaskUnderTest:
    return TaskUnderTest(Task(name="pets", store=str(tmp_path / "store"), data=DATA))


def planned(watched: TaskUnderTest) -> Plan:
    plan = plan_next_run(watched.store, watched.task, Request())
    assert isinstance(plan, Plan)
    watched.store.run(plan.run_id).write_plan(plan)
    return plan


def claims(watched: TaskUnderTest) -> Claims:
    opened = watched.store.claims()
    opened.refresh()
    return opened


def test_run_gets_all_new_drops_and_is_in_flight_until_it_ends(watched: TaskUnderTest, tmp_path: Path) -> None:
    watched.land(tmp_path / "in", "a")
    watched.land(tmp_path / "in", "b")
    plan, opened = planned(watched), claims(watched)
    assert opened.claim(plan)
    assert watched.owners() == {"a": plan.run_id, "b": plan.run_id}
    assert opened.in_flight() == claims(watched).in_flight() == [plan]
    watched.end(plan.run_id)
    assert opened.in_flight() == claims(watched).in_flight() == []


def test_ended_run_keeps_its_claims(watched: TaskUnderTest, tmp_path: Path) -> None:
    watched.land(tmp_path / "in", "a")
    first = planned(watched)
    assert claims(watched).claim(first)
    watched.end(first.run_id)
    watched.land(tmp_path / "in", "b")
    second = planned(watched)
    assert claims(watched).claim(second)
    assert watched.owners() == {"a": first.run_id, "b": second.run_id}
    assert claims(watched).in_flight() == [second]


def test_run_that_needs_a_claimed_drop_gets_no_drop(watched: TaskUnderTest, tmp_path: Path) -> None:
    watched.land(tmp_path / "in", "a")
    first = planned(watched)
    watched.land(tmp_path / "in", "b")
    both = planned(watched)
    assert claims(watched).claim(first)
    assert not claims(watched).claim(both)
    assert watched.owners() == {"a": first.run_id}


def test_claims_before_a_conflict_are_withdrawn(watched: TaskUnderTest, tmp_path: Path) -> None:
    watched.land(tmp_path / "in", "a")
    watched.land(tmp_path / "in", "b")
    both = planned(watched)
    watched.store.objects.delete(watched.store.keys.manifest("a"))
    second = planned(watched)
    assert claims(watched).claim(second)
    assert not claims(watched).claim(both)
    assert watched.owners() == {"b": second.run_id}


def test_claim_withdrawn_after_its_listing_is_left_out(
    watched: TaskUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.land(tmp_path / "in", "a")
    plan = planned(watched)
    assert claims(watched).claim(plan)
    opened, read = watched.store.claims(), LocalStore.read

    def withdraw_first(objects: LocalStore, key: str) -> tuple[bytes, str]:
        watched.store.objects.delete(watched.store.keys.claim("a"))
        return read(objects, key)

    monkeypatch.setattr(LocalStore, "read", withdraw_first)
    opened.refresh()
    assert not opened.claimed("a")


def test_watcher_completes_the_claims_of_a_killed_watcher(watched: TaskUnderTest, tmp_path: Path) -> None:
    watched.land(tmp_path / "in", "a")
    watched.land(tmp_path / "in", "b")
    plan = planned(watched)
    assert claims(watched).claim(plan)
    watched.store.objects.delete(watched.store.keys.claim("b"))
    survivor = claims(watched)
    assert survivor.in_flight() == [plan]
    assert survivor.claim(plan)
    assert watched.owners() == {"a": plan.run_id, "b": plan.run_id}


def test_one_of_many_racing_runs_claims_all_its_drops(watched: TaskUnderTest, tmp_path: Path) -> None:
    plans = []
    for drop in ("a", "b", "c"):
        watched.land(tmp_path / "in", drop)
        plans.append(planned(watched))
    won: list[str] = []

    def contest(plan: Plan) -> None:
        if claims(watched).claim(plan):
            won.append(plan.run_id)

    threads = [threading.Thread(target=contest, args=(plan,)) for plan in plans * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    owners = watched.owners()
    assert len(set(won)) == 1
    assert set(owners.values()) == set(won)
    [winner] = [plan for plan in plans if plan.run_id in won]
    assert owners.keys() == {drop.id for drop in winner.dataset.drops}
