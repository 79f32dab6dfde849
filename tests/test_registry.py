"""The champion: its history, swaps that only one of many wins, and the way back."""

from pathlib import Path

import pytest
from races import MANY, promote_itself, promote_or_roll_back, race

from retrain import registry
from retrain.errors import RunError
from retrain.layout import Layout
from retrain.records import Champion
from retrain.store import Conflict, LocalStore, Store, open_store

LAYOUT = Layout("pets")


def force(store: Store, run_id: str, why: registry.Why = "promoted") -> Champion:
    return registry.put_in_force(store, LAYOUT, registry.read(store, LAYOUT), run_id, why)


def roll_back(store: Store) -> str:
    champion = registry.read(store, LAYOUT).champion
    assert champion
    return force(store, registry.previous(champion), "rolled back").run_id


def test_a_new_task_has_no_champion(store: Store) -> None:
    seen = registry.read(store, LAYOUT)
    assert (seen.run_id, seen.champion) == (None, None)
    assert not registry.was_promoted(seen, "a")


def test_the_history_tells_every_promotion_in_its_order(store: Store) -> None:
    for run_id in ("a", "b"):
        force(store, run_id)
    roll_back(store)
    seen = registry.read(store, LAYOUT)
    assert seen.champion
    assert [(entry.sequence, entry.run_id, entry.why) for entry in seen.champion.history] == [
        (1, "a", "promoted"),
        (2, "b", "promoted"),
        (3, "a", "rolled back"),
    ]
    assert seen.run_id == "a"
    assert registry.was_promoted(seen, "b")
    assert [entry.at for entry in seen.champion.history] == sorted(entry.at for entry in seen.champion.history)


def test_a_swap_fails_if_another_candidate_was_promoted_since(store: Store) -> None:
    nobody = registry.read(store, LAYOUT)
    registry.swap(store, LAYOUT, nobody, "a", "promoted")
    with pytest.raises(Conflict):
        registry.swap(store, LAYOUT, nobody, "b", "promoted")
    first = registry.read(store, LAYOUT)
    registry.swap(store, LAYOUT, first, "c", "promoted")
    with pytest.raises(Conflict):
        registry.swap(store, LAYOUT, first, "d", "promoted")
    champion = registry.read(store, LAYOUT).champion
    assert champion
    assert [entry.run_id for entry in champion.history] == ["a", "c"]


def test_a_person_is_told_to_decide_again_when_another_came_first(store: Store) -> None:
    seen = registry.read(store, LAYOUT)
    force(store, "a")
    with pytest.raises(RunError, match="decide again"):
        registry.put_in_force(store, LAYOUT, seen, "b", "promoted by hand")
    with pytest.raises(RunError, match="a is the champion already"):
        force(store, "a")


@pytest.fixture(params=["local", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str | None]:
    """Where processes find an empty store of each kind."""
    if request.param == "local":
        return str(tmp_path / "store"), None
    return f"s3://{request.getfixturevalue('bucket')}/races", request.getfixturevalue("s3")


def test_of_sixteen_processes_that_promote_at_once_none_is_lost(address: tuple[str, str | None]) -> None:
    race(promote_itself, *address, processes=MANY)
    champion = registry.read(open_store(*address), LAYOUT).champion
    assert champion
    assert sorted(entry.run_id for entry in champion.history) == sorted(f"run-{number}" for number in range(MANY))
    assert [entry.sequence for entry in champion.history] == list(range(1, MANY + 1))


def test_promotions_and_rollbacks_at_once_follow_one_from_another(address: tuple[str, str | None]) -> None:
    store = open_store(*address)
    for run_id in "abcdefghijklmnopqrstuvwxyz":  # enough to go back to
        force(store, run_id)
    race(promote_or_roll_back, *address)
    champion = registry.read(store, LAYOUT).champion
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
    champion = registry.read(store, LAYOUT).champion
    assert champion
    if back_to:
        assert registry.previous(champion) == back_to
    else:
        with pytest.raises(RunError, match="nothing to roll back to: a is the first champion"):
            registry.previous(champion)
