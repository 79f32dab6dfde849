"""A watcher starts one run for amendments and erasures without new drops, even under races and crashes."""

import os
import signal
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

import pytest
from support.uploads import task_in
from support.watching import Recorder, TaskUnderTest, metrics_of

from retrain.config.automation import Erase, Trigger
from retrain.config.task import Model, Task
from retrain.data.amending import Correction, amend_drops
from retrain.data.finding import Selection
from retrain.data.table_making import read_or_make_table
from retrain.pipeline.accounting import make_record
from retrain.pipeline.erasure import erase
from retrain.pipeline.retention import plan_removal
from retrain.pipeline.status import read_status
from retrain.records import Decision, Plan
from retrain.store.champions import rollback_target
from retrain.store.task_store import TaskStore
from retrain.utils.clock import utc_now
from retrain.watcher.health import Health
from retrain.watcher.task_watch import TaskWatch


@pytest.fixture
def watched(tmp_path: Path) -> TaskUnderTest:
    """Return a task with one drop and a champion that was trained on it."""
    watched = TaskUnderTest(task_in(tmp_path).model_copy(update={"model": Model(name="logistic")}))
    watched.land(tmp_path / "in", "a")
    watched.watcher(recorder := Recorder()).once()
    promote(watched, recorder.runs[0])
    return watched


def promote(watched: TaskUnderTest, run_id: str) -> None:
    watched.store.champion.swap(watched.store.champion.read(), run_id, "promoted")
    watched.end(run_id)


def decide(watched: TaskUnderTest, run_id: str) -> None:
    """Promote a run as the gate does, and write its record."""
    watched.store.champion.swap(watched.store.champion.read(), run_id, "promoted")
    record = make_record(watched.plan(run_id), None, None, Decision(promoted=True, reasons=()), None)
    watched.store.ledger.write(record)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def amend(watched: TaskUnderTest, key: str, name: str | None) -> None:
    amend_drops([Correction(Selection("a test", "", key, ""), name, "a test", "ann")], watched.task, watched.store)


def with_settings(watched: TaskUnderTest, **settings: object) -> TaskUnderTest:
    return TaskUnderTest(watched.task.model_copy(update=settings))


def test_watcher_starts_one_run_for_amendments_alone(watched: TaskUnderTest) -> None:
    watchers = [watched.watcher(recorder := Recorder()), watched.watcher(recorder)]
    assert [watcher.once() for watcher in watchers] == [True, True]
    assert recorder.runs == []
    amend(watched, "cat/001", "dog")
    amend(watched, "cat/002", None)
    assert [watcher.once() for watcher in watchers * 2] == [True] * 4
    [run_id] = recorder.runs
    assert watched.owners()["_amendment-000002"] == run_id
    assert [ref.digest for ref in watched.plan(run_id).dataset.drops] == [watched.store.drops.read("a").digest]
    amend(watched, "cat/003", "dog")
    assert watchers[0].once()
    assert metrics_of(watchers[0])["retrain_watcher_lag_seconds"] > 0
    assert recorder.runs == [run_id]
    promote(watched, run_id)
    assert watchers[0].once()
    [_, second] = recorder.runs
    promote(watched, second)
    assert all(watcher.once() for watcher in [*watchers, watched.watcher(recorder)])
    assert recorder.runs == [run_id, second]
    assert metrics_of(watchers[0])["retrain_watcher_lag_seconds"] == 0


def test_watcher_trains_each_undone_amendment_once(watched: TaskUnderTest) -> None:
    recorder = Recorder()
    watcher, digests = watched.watcher(recorder), []
    for count, name in enumerate(["dog", "cat", "dog", "cat"], start=1):
        amend(watched, "cat/001", name)
        assert all(each.once() for each in (watcher, watched.watcher(recorder)))
        assert len(recorder.runs) == count
        decide(watched, recorder.runs[-1])
        assert all(each.once() for each in (watcher, watched.watcher(recorder)))
        assert len(recorder.runs) == count
        digests.append(watched.plan(recorder.runs[-1]).dataset.digest)
    assert digests[:2] == digests[2:]
    assert len({*digests}) == 2
    assert metrics_of(watcher)["retrain_watcher_lag_seconds"] == 0


def test_watcher_does_not_undo_a_rollback(watched: TaskUnderTest) -> None:
    recorder = Recorder()
    amend(watched, "cat/001", "dog")
    assert watched.watcher(recorder).once()
    decide(watched, recorder.runs[0])
    before = watched.store.champion.read()
    watched.store.champion.promote_manually(before, rollback_target(before.champion), "rolled back")
    assert watched.watcher(recorder).once()
    watched.store.objects.delete(watched.store.keys.claim("_amendment-000001"))
    assert watched.watcher(recorder).once()
    assert len(recorder.runs) == 1


class Killed(Recorder):
    """An executor whose process is killed before it starts the run."""

    def ensure(self, task: Task, plan: Plan, store: TaskStore) -> bool:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("this process is dead")


@pytest.mark.parametrize("is_claimed", [True, False])
def test_watcher_starts_the_run_of_a_killed_watcher(watched: TaskUnderTest, is_claimed: bool) -> None:
    amend(watched, "cat/001", "dog")
    process = get_context("fork").Process(target=watched.watcher(Killed()).once)
    process.start()
    process.join()
    run_id = watched.owners()["_amendment-000001"]
    if not is_claimed:
        watched.store.objects.delete(watched.store.keys.claim("_amendment-000001"))
    recorder = Recorder()
    assert watched.watcher(recorder).once()
    assert recorder.runs == [run_id]


def test_watchers_with_different_settings_start_one_run(watched: TaskUnderTest) -> None:
    amend(watched, "cat/001", "dog")
    other = with_settings(watched, seed=1)
    recorder = Recorder()
    watches = [TaskWatch(each.task, recorder, Health(["pets"])) for each in (watched, other)]
    for watch in watches:
        watch.check_drops()
    for watch in watches:
        watch.advance()
    assert len(set(watched.owners().values())) == 2, "the champion's run, and one run for the amendment"
    assert len(recorder.runs) == 1


def test_drop_and_amendment_become_one_run(watched: TaskUnderTest, tmp_path: Path) -> None:
    amend(watched, "cat/001", "dog")
    watched.land(tmp_path / "in", "b")
    recorder = Recorder()
    assert watched.watcher(recorder).once()
    [run_id] = recorder.runs
    assert {watched.owners()[name] for name in ("_amendment-000001", "b")} == {run_id}
    promote(watched, run_id)
    assert watched.watcher(recorder).once()
    assert recorder.runs == [run_id]


def test_amendment_waits_for_the_trigger(watched: TaskUnderTest) -> None:
    waiting = with_settings(watched, trigger=Trigger(min_samples=1))
    amend(watched, "cat/001", "dog")
    recorder = Recorder()
    assert waiting.watcher(recorder).once()
    assert recorder.runs == []
    assert read_status(waiting.task, waiting.store).trigger == "waits for 1 more sample"


def test_erasure_starts_a_run_once_it_is_complete(watched: TaskUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    unlearn = with_settings(watched, erase=Erase(policy="retrain"))
    table = read_or_make_table(watched.store.drops.read("a"), watched.store)
    chosen = Selection("a test", "", "", table.digest_of(table.use.tolist().index(0)))
    monkeypatch.setattr("retrain.pipeline.erasure.rewrite_drop", interrupt)
    with pytest.raises(KeyboardInterrupt):
        erase([chosen], unlearn.task, watched.store, Path(watched.task.store, "cache"), "ann", "asked to")
    monkeypatch.undo()
    recorder = Recorder()
    assert watched.store.drops.amendments.newest()
    assert unlearn.watcher(recorder).once()
    assert recorder.runs == []
    erase([], unlearn.task, watched.store, Path(watched.task.store, "cache"), "ann", "")
    assert unlearn.watcher(recorder).once()
    [run_id] = recorder.runs
    assert watched.plan(run_id).reason.endswith("learnt from samples that were erased (erase.policy: retrain)")
    owners = watched.owners()
    assert owners["_amendment-000001"] == owners["_erasure-000001"] == run_id
    planned = plan_removal(watched.store, 1, timedelta(), utc_now())
    assert "claims" not in [removal.what for removal in planned.removals]
