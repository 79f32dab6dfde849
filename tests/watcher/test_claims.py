"""Each drop is claimed for only one run, also under races and crashes."""

import threading
from pathlib import Path

import pytest
from support.watching import DATA, Place

from retrain.config.task import Task
from retrain.pipeline.next_run import plan_next_run
from retrain.pipeline.planning import Request
from retrain.records import Plan
from retrain.store.claims import Claims


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(Task(name="pets", store=str(tmp_path / "store"), data=DATA))


def planned(place: Place) -> Plan:
    plan = plan_next_run(place.store, place.task, Request())
    assert isinstance(plan, Plan)
    place.store.run(plan.run_id).write_plan(plan)
    return plan


def claims(place: Place) -> Claims:
    opened = place.store.claims()
    opened.refresh()
    return opened


def test_run_gets_all_new_drops_and_is_in_flight_until_it_ends(place: Place, tmp_path: Path) -> None:
    place.land(tmp_path / "in", "a")
    place.land(tmp_path / "in", "b")
    plan, opened = planned(place), claims(place)
    assert opened.claim(plan)
    assert place.owners() == {"a": plan.run_id, "b": plan.run_id}
    assert opened.in_flight() == claims(place).in_flight() == [plan]
    place.end(plan.run_id)
    assert opened.in_flight() == claims(place).in_flight() == []


def test_ended_run_keeps_its_claims(place: Place, tmp_path: Path) -> None:
    place.land(tmp_path / "in", "a")
    first = planned(place)
    assert claims(place).claim(first)
    place.end(first.run_id)
    place.land(tmp_path / "in", "b")
    second = planned(place)
    assert claims(place).claim(second)
    assert place.owners() == {"a": first.run_id, "b": second.run_id}
    assert claims(place).in_flight() == [second]


def test_run_that_needs_a_claimed_drop_gets_no_drop(place: Place, tmp_path: Path) -> None:
    place.land(tmp_path / "in", "a")
    first = planned(place)
    place.land(tmp_path / "in", "b")
    both = planned(place)
    assert claims(place).claim(first)
    assert not claims(place).claim(both)
    assert place.owners() == {"a": first.run_id}


def test_claims_before_a_conflict_are_withdrawn(place: Place, tmp_path: Path) -> None:
    place.land(tmp_path / "in", "a")
    place.land(tmp_path / "in", "b")
    both = planned(place)
    place.store.objects.delete(place.store.keys.manifest("a"))
    second = planned(place)
    assert claims(place).claim(second)
    assert not claims(place).claim(both)
    assert place.owners() == {"b": second.run_id}


def test_watcher_completes_the_claims_of_a_killed_watcher(place: Place, tmp_path: Path) -> None:
    place.land(tmp_path / "in", "a")
    place.land(tmp_path / "in", "b")
    plan = planned(place)
    assert claims(place).claim(plan)
    place.store.objects.delete(place.store.keys.claim("b"))
    survivor = claims(place)
    assert survivor.in_flight() == [plan]
    assert survivor.claim(plan)
    assert place.owners() == {"a": plan.run_id, "b": plan.run_id}


def test_one_of_many_racing_runs_claims_all_drops(place: Place, tmp_path: Path) -> None:
    plans = []
    for drop in ("a", "b", "c"):
        place.land(tmp_path / "in", drop)
        plans.append(planned(place))
    won: list[str] = []

    def contest(plan: Plan) -> None:
        if claims(place).claim(plan):
            won.append(plan.run_id)

    threads = [threading.Thread(target=contest, args=(plan,)) for plan in plans * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    owners = place.owners()
    assert len(set(won)) == 1
    assert set(owners.values()) == set(won)
    [winner] = [plan for plan in plans if plan.run_id in won]
    assert owners.keys() == {drop.id for drop in winner.dataset.drops}
