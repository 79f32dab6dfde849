"""An error names a record that is damaged or of another version, and other records stay readable."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support import known_ledger, monitoring
from support.terminal import retrain

from retrain.config.task import Task
from retrain.errors import RunError, StoreError
from retrain.kubeflow import submission
from retrain.store import LocalStore, ObjectStore, lease
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore
from retrain.watcher.ingestion import count_validation

PETS = TaskKeys("pets")
DAMAGED = {"truncated": b"{", "empty": b"", "not text": b"\xff\xfe", "a list": b"[]"}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Return a store with the ledger `known_ledger.pets()`, a champion, and a drop that no run has used."""
    store = LocalStore(tmp_path / "store")
    known_ledger.write(store, known_ledger.pets())
    TaskStore(store, "pets").champion.swap(TaskStore(store, "pets").champion.read(), "continuous-4", "promoted")
    known_ledger.commit(store, "pets", "d-9", datetime(2026, 1, 10, tzinfo=UTC))
    return store


def begin_validation(store: ObjectStore) -> None:
    with count_validation(TaskStore(store, "pets"), "d-9"):
        pytest.fail("a validation began although its count cannot be read")


READERS: dict[str, Callable[[ObjectStore], object]] = {
    PETS.champion: lambda store: TaskStore(store, "pets").champion.read(),
    PETS.record("scratch-1"): lambda store: TaskStore(store, "pets").ledger.find("scratch-1"),
    PETS.record("continuous-7"): lambda store: TaskStore(store, "pets").ledger.write(known_ledger.run(7, 100)),
    PETS.lease: lambda store: lease.acquire(store, PETS.lease),
    PETS.claim("d-9"): lambda store: TaskStore(store, "pets").claims().refresh(),
    PETS.validations("d-9"): begin_validation,
    PETS.submission("one"): lambda store: submission.read_submission(TaskStore(store, "pets"), "one"),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("key", READERS)
def test_error_names_the_record_that_cannot_be_read(store: LocalStore, key: str, data: bytes) -> None:
    store.write(key, data)
    with pytest.raises(StoreError, match=f"{store.url}/{key} was not written by this version of retrain, or was"):
        READERS[key](store)


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_unreadable_file_of_a_run_is_a_run_error(store: LocalStore, data: bytes) -> None:
    run = TaskStore(store, "pets").run("scratch-1")
    for name, read in {"plan.json": run.plan, "result.json": run.result, "curve.jsonl": run.curve}.items():
        store.write(PETS.run("scratch-1", name), data + b"\n")
        with pytest.raises(RunError, match=f"{store.url}/{PETS.run('scratch-1', name)} was not written by this"):
            read()


PROMOTION = {"sequence": 1, "run_id": "continuous-4", "why": "by a later rule", "at": "2026-01-10T00:00:00Z"}
NEWER = json.dumps({"history": [PROMOTION]}).encode()
"""A record of a later version, with a reason that this version does not know."""


@pytest.mark.parametrize("line", ["status", "run", "rollback", "report"])
@pytest.mark.parametrize("data", [b"{", b'{"history": []}', NEWER], ids=["truncated", "empty", "newer"])
def test_command_names_a_damaged_champion_record(
    store: LocalStore, tmp_path: Path, capfd: pytest.CaptureFixture[str], line: str, data: bytes
) -> None:
    (tmp_path / "pets.yaml").write_text(f"name: pets\nstore: {store.root}\n")
    store.write(PETS.champion, data)
    ran = retrain([line, "--task", str(tmp_path / "pets.yaml")], capfd)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"retrain: {store.url}/{PETS.champion} was not written by this version of retrain")
    assert len(ran.err.splitlines()) == 1


def test_damaged_champion_does_not_affect_other_tasks_metrics(store: LocalStore) -> None:
    known_ledger.write(store, known_ledger.cars())
    store.write(PETS.champion, NEWER)
    tasks = [Task(name=name, store=str(store.root)) for name in ("pets", "cars")]
    used = ("retrain_used_iterations_total", frozenset({("task", "cars"), ("method", "scratch")}))
    read_at = ("retrain_ledger_read_timestamp_seconds", frozenset({("task", "pets")}))
    with monitoring.exporter(tasks, every=0.05) as address:

        def values() -> dict[tuple[str, monitoring.Labels], float]:
            return monitoring.samples(monitoring.get(f"http://{address}/metrics"))

        assert values()[used] == 1000
        assert values()[read_at] == 0
        known_ledger.write(store, [known_ledger.run(9, 50, task="cars", method="scratch")])
        monitoring.wait_for(lambda: values()[used] == 1050, "the new record of the other task")
        store.delete(PETS.champion)
        monitoring.wait_for(lambda: values()[read_at] > 0, "the repaired task")
