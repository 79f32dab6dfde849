"""The champion: its history, swaps that only one of many wins, and the way back."""

from pathlib import Path

import pytest
from races import PROCESSES, promote_itself, race

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


def test_of_racing_promotions_none_is_lost(s3: str, bucket: str) -> None:
    url = f"s3://{bucket}/races"
    race(promote_itself, url, s3)
    champion = registry.read(open_store(url, s3), LAYOUT).champion
    assert champion
    assert sorted(entry.run_id for entry in champion.history) == [f"run-{number}" for number in range(PROCESSES)]
    assert [entry.sequence for entry in champion.history] == [1, 2, 3, 4]


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
