"""Only drops with a complete manifest are listed, in the order of their commits."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.histories import make_drop

from retrain.data.dataset import make_dataset, order_drops
from retrain.errors import DropError
from retrain.records import Drop, DropRef
from retrain.store import LocalStore
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore

KEYS = TaskKeys("pets")


def commit(store: LocalStore, *drops: Drop) -> None:
    for drop in drops:
        store.create(KEYS.manifest(drop.id), drop.to_bytes())


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def test_drops_are_listed_by_the_time_of_their_commit_then_by_id(local: LocalStore) -> None:
    a, b, c = make_drop("a", 2), make_drop("b", 1), make_drop("c", 1)
    commit(local, a, c, b)
    assert TaskStore(local, "pets").drops.all() == (b, c, a)


def test_drop_without_manifest_is_not_listed(local: LocalStore) -> None:
    local.write("pets/drops/landing/train-000000.tar", b"still being uploaded")
    local.write("pets/drops/landing/deeper/drop.json", b"not a manifest's place")
    local.write("others/drops/a/drop.json", b"of another task")
    assert TaskStore(local, "pets").drops.all() == ()


def test_missing_drop_is_reported(local: LocalStore) -> None:
    with pytest.raises(DropError, match="task pets has no drop week-45 in "):
        TaskStore(local, "pets").drops.read("week-45")


def test_error_on_a_quarantined_drop_states_the_cause(local: LocalStore) -> None:
    drops = TaskStore(local, "pets").drops
    drops.quarantine("week-45", "cat/1.png: cannot be decoded")
    with pytest.raises(
        DropError, match=r"week-45 is in quarantine: cat/1\.png: .*delete pets/drops/week-45/quarantine"
    ):
        drops.read("week-45")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-20],
        lambda data: data.replace(b'"cat": 10', b'"cat": 11'),
        lambda data: data.replace(b'"id": "a"', b'"id": "b"'),
        lambda data: b"\xff",
    ],
)
def test_damaged_manifest_is_reported(local: LocalStore, spoil: Callable[[bytes], bytes]) -> None:
    local.write(KEYS.manifest("a"), spoil(make_drop("a", 0).to_bytes()))
    with pytest.raises(DropError, match=r"pets/drops/a/drop\.json"):
        TaskStore(local, "pets").drops.all()


def test_drop_digest_depends_only_on_content() -> None:
    assert make_drop("a", 0).digest == make_drop("b", 1).digest
    assert make_drop("a", 0).digest != make_drop("a", 0, ("dog",)).digest


def test_champions_drops_come_first_then_new_ones_by_commit() -> None:
    a, b, c, d = (make_drop(name, minute) for name, minute in (("a", 1), ("b", 4), ("c", 3), ("d", 3)))
    assert order_drops([a, b, c, d], ["b"]) == (b, a, c, d)
    assert order_drops([d, c, b, a], ["c", "a"]) == (c, a, d, b)


def test_missing_drop_of_the_champion_is_reported() -> None:
    with pytest.raises(DropError, match="drop b: the champion was trained on it"):
        order_drops([make_drop("a", 0)], ["a", "b"])


def test_new_classes_are_appended_to_the_class_map() -> None:
    first, second = make_drop("a", 0, ("dog", "cat")), make_drop("b", 1, ("ant", "cat"))
    assert make_dataset([first]).classes == ("dog", "cat")
    assert make_dataset([first, second]).classes == ("dog", "cat", "ant")
    assert make_dataset([first, second]).drops == (
        DropRef(id="a", digest=first.digest, samples=20),
        DropRef(id="b", digest=second.digest, samples=20),
    )
