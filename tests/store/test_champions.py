"""The champion: its history, concurrent promotions by several processes, and rollbacks."""

from pathlib import Path

import pytest
from support.races import MANY, promote_itself, promote_or_roll_back, race

from retrain.errors import RunError
from retrain.records import Champion
from retrain.records.ledger import PromotionReason
from retrain.store import Conflict, LocalStore, ObjectStore, champions, open_store
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore
from retrain.utils.clock import utc_now

KEYS = TaskKeys("pets")


def force(store: ObjectStore, run_id: str, why: PromotionReason = "promoted") -> Champion:
    return TaskStore(store, "pets").champion.promote_manually(TaskStore(store, "pets").champion.read(), run_id, why)


def roll_back(store: ObjectStore) -> str:
    champion = TaskStore(store, "pets").champion.read().champion
    assert champion
    return force(store, champions.rollback_target(champion), "rolled back").run_id


def test_new_task_has_no_champion(store: ObjectStore) -> None:
    seen = TaskStore(store, "pets").champion.read()
    assert (seen.run_id, seen.champion) == (None, None)
    assert not champions.was_promoted(seen, "a")


def test_history_lists_every_promotion_in_order(store: ObjectStore) -> None:
    for run_id in ("a", "b"):
        force(store, run_id)
    roll_back(store)
    seen = TaskStore(store, "pets").champion.read()
    assert seen.champion
    assert [(entry.sequence, entry.run_id, entry.why) for entry in seen.champion.history] == [
        (1, "a", "promoted"),
        (2, "b", "promoted"),
        (3, "a", "rolled back"),
    ]
    assert seen.run_id == "a"
    assert champions.was_promoted(seen, "b")
    assert [entry.at for entry in seen.champion.history] == sorted(entry.at for entry in seen.champion.history)


def test_swap_fails_if_another_candidate_was_promoted(store: ObjectStore) -> None:
    before = TaskStore(store, "pets").champion.read()
    TaskStore(store, "pets").champion.swap(before, "a", "promoted")
    with pytest.raises(Conflict):
        TaskStore(store, "pets").champion.swap(before, "b", "promoted")
    first = TaskStore(store, "pets").champion.read()
    TaskStore(store, "pets").champion.swap(first, "c", "promoted")
    with pytest.raises(Conflict):
        TaskStore(store, "pets").champion.swap(first, "d", "promoted")
    champion = TaskStore(store, "pets").champion.read().champion
    assert champion
    assert [entry.run_id for entry in champion.history] == ["a", "c"]


def test_only_one_of_two_simultaneous_rollbacks_succeeds(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for run_id in ("a", "b", "c"):
        force(store, run_id)
    now = utc_now()
    monkeypatch.setattr(champions, "utc_now", lambda: now)  # the same microsecond
    seen = TaskStore(store, "pets").champion.read()
    TaskStore(store, "pets").champion.swap(seen, "b", "rolled back")
    with pytest.raises(Conflict):
        TaskStore(store, "pets").champion.swap(seen, "b", "rolled back")


def test_promotion_decided_on_an_old_champion_is_refused(store: ObjectStore) -> None:
    seen = TaskStore(store, "pets").champion.read()
    force(store, "a")
    with pytest.raises(RunError, match="decide again"):
        TaskStore(store, "pets").champion.promote_manually(seen, "b", "promoted by hand")
    with pytest.raises(RunError, match="a is already the champion: nothing to promote"):
        force(store, "a")


@pytest.fixture(params=["local", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str | None]:
    """Return the URL and the endpoint of an empty store. Each test runs with a folder and with S3."""
    if request.param == "local":
        return str(tmp_path / "store"), None
    return f"s3://{request.getfixturevalue('bucket')}/races", request.getfixturevalue("s3")


def test_history_contains_sixteen_concurrent_promotions(address: tuple[str, str | None]) -> None:
    race(promote_itself, *address, processes=MANY)
    champion = TaskStore(open_store(*address), "pets").champion.read().champion
    assert champion
    assert sorted(entry.run_id for entry in champion.history) == sorted(f"run-{number}" for number in range(MANY))
    assert [entry.sequence for entry in champion.history] == list(range(1, MANY + 1))


def test_concurrent_rollbacks_return_to_the_previous_champion(address: tuple[str, str | None]) -> None:
    store = open_store(*address)
    for run_id in "abcdefghijklmnopqrstuvwxyz":  # enough champions for all rollbacks
        force(store, run_id)
    race(promote_or_roll_back, *address)
    champion = TaskStore(store, "pets").champion.read().champion
    assert champion
    assert [entry.sequence for entry in champion.history] == list(range(1, 26 + 2 + 10 + 1))
    standing: list[str] = []
    for entry in champion.history:
        if entry.why == "rolled back":
            standing.pop()
            assert entry.run_id == standing[-1]
        else:
            standing.append(entry.run_id)


@pytest.mark.parametrize(
    ("steps", "back_to"),
    [
        ("a", ""),
        ("ab", "a"),
        ("abc<", "a"),
        ("abc<<", ""),
        ("ab<", ""),
        ("ab<c", "a"),
        ("abc<d", "b"),
        ("abc<d<", "a"),
        ("abca", "c"),
        ("abca<", "b"),
    ],
)
def test_rolling_back_undoes_promotions_one_by_one(tmp_path: Path, steps: str, back_to: str) -> None:
    store = LocalStore(tmp_path)
    for step in steps:
        roll_back(store) if step == "<" else force(store, step)
    champion = TaskStore(store, "pets").champion.read().champion
    assert champion
    if back_to:
        assert champions.rollback_target(champion) == back_to
    else:
        with pytest.raises(RunError, match="nothing to roll back to: a is the first champion"):
            champions.rollback_target(champion)
