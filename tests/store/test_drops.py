"""Only drops with a complete manifest are listed, in the order of their commits."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.histories import make_drop

from retrain.data.dataset import make_dataset, order_drops
from retrain.errors import DropError
from retrain.records import Change, Drop, DropRef
from retrain.records.drop import Erased, amend, without_erased
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


def change(drop: str, row: int, after: str | None) -> Change:
    return Change(
        drop=drop, row=row, key="k", content="c", split="train", before="cat", after=after, reason="", author="me"
    )


def test_drops_are_amended_without_a_look_at_all_other_changes(local: LocalStore) -> None:
    """The time is that of the drops plus that of the changes, and not their product."""
    store = TaskStore(local, "pets")
    commit(local, *(make_drop(f"d-{number}", 1) for number in range(300)))
    store.drops.amendments.append([change(f"d-{row % 300}", row // 300, "fox") for row in range(300)])
    store.drops.amendments.append([change("elsewhere", row, "fox") for row in range(40_000)])
    store.drops.amendments.read()
    before = time.process_time()
    assert all(drop.counts["train"]["fox"] == 1 for drop in store.drops.all())
    assert time.process_time() - before < 1.5


def test_many_erased_samples_are_found_by_their_rows() -> None:
    rows = range(20_000)
    drop = make_drop("a", 1).model_copy(update={"erased": Erased(rows=tuple(rows), digest="d")})
    newest = amend(drop, [[change("a", row, None) for row in rows]])
    before = time.process_time()
    assert newest.removed == ()
    assert without_erased(drop, newest).erased_since == len(rows)
    assert time.process_time() - before < 1.5
