"""A watcher starts one run for amendments and erasures without new drops, also under races and crashes."""

import os
import signal
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

import pytest
from support.uploads import task_in
from support.watching import Place, Recorder, metrics_of

from retrain.config.automation import Erase, Trigger
from retrain.config.task import Model, Task
from retrain.data.amending import Correction, amend_drops
from retrain.data.finding import Selection
from retrain.data.table_making import read_or_make_table
from retrain.pipeline.erasure import erase
from retrain.pipeline.retention import plan_removal
from retrain.pipeline.status import read_status
from retrain.records import Plan
from retrain.store.task_store import TaskStore
from retrain.utils.clock import utc_now
from retrain.watcher.health import Health
from retrain.watcher.task_watch import TaskWatch


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return a task with one drop and a champion that was trained on it."""
    place = Place(task_in(tmp_path).model_copy(update={"model": Model(name="logistic")}))
    place.land(tmp_path / "in", "a")
    place.watcher(recorder := Recorder()).once()
    promote(place, recorder.runs[0])
    return place


def promote(place: Place, run_id: str) -> None:
    place.store.champion.swap(place.store.champion.read(), run_id, "promoted")
    place.end(run_id)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def amend(place: Place, key: str, name: str | None) -> None:
    amend_drops([Correction(Selection("a test", "", key, ""), name, "a test", "ann")], place.task, place.store)


def with_task(place: Place, **settings: object) -> Place:
    return Place(place.task.model_copy(update=settings))


def test_watcher_starts_one_run_for_amendments_alone(place: Place) -> None:
    watchers = [place.watcher(recorder := Recorder()), place.watcher(recorder)]
    assert [watcher.once() for watcher in watchers] == [True, True]
    assert recorder.runs == []
    amend(place, "cat/001", "dog")
    amend(place, "cat/002", None)
    assert [watcher.once() for watcher in watchers * 2] == [True] * 4
    [run_id] = recorder.runs
    assert place.owners()["_amendment-000002"] == run_id
    assert [ref.digest for ref in place.plan(run_id).dataset.drops] == [place.store.drops.read("a").digest]
    amend(place, "cat/003", "dog")
    assert watchers[0].once()
    assert metrics_of(watchers[0])["retrain_watcher_lag_seconds"] > 0
    assert recorder.runs == [run_id]
    promote(place, run_id)
    assert watchers[0].once()
    [_, second] = recorder.runs
    promote(place, second)
    assert all(watcher.once() for watcher in [*watchers, place.watcher(recorder)])
    assert recorder.runs == [run_id, second]
    assert metrics_of(watchers[0])["retrain_watcher_lag_seconds"] == 0


class Killed(Recorder):
    """An executor whose process is killed before it starts the run."""

    def ensure(self, task: Task, plan: Plan, store: TaskStore) -> bool:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("this process is dead")


@pytest.mark.parametrize("is_claimed", [True, False])
def test_watcher_starts_the_run_of_a_killed_watcher(place: Place, is_claimed: bool) -> None:
    amend(place, "cat/001", "dog")
    process = get_context("fork").Process(target=place.watcher(Killed()).once)
    process.start()
    process.join()
    run_id = place.owners()["_amendment-000001"]
    if not is_claimed:
        place.store.objects.delete(place.store.keys.claim("_amendment-000001"))
    recorder = Recorder()
    assert place.watcher(recorder).once()
    assert recorder.runs == [run_id]


def test_watchers_with_different_settings_start_one_run(place: Place) -> None:
    amend(place, "cat/001", "dog")
    other = with_task(place, seed=1)
    recorder = Recorder()
    watches = [TaskWatch(each.task, recorder, Health(["pets"])) for each in (place, other)]
    for watch in watches:
        watch.check_drops()
    for watch in watches:
        watch.advance()
    assert len(set(place.owners().values())) == 2, "the champion's, and one for the amendment"
    assert len(recorder.runs) == 1


def test_drop_and_amendment_become_one_run(place: Place, tmp_path: Path) -> None:
    amend(place, "cat/001", "dog")
    place.land(tmp_path / "in", "b")
    recorder = Recorder()
    assert place.watcher(recorder).once()
    [run_id] = recorder.runs
    assert {place.owners()[name] for name in ("_amendment-000001", "b")} == {run_id}
    promote(place, run_id)
    assert place.watcher(recorder).once()
    assert recorder.runs == [run_id]


def test_amendment_waits_for_the_trigger(place: Place) -> None:
    waiting = with_task(place, trigger=Trigger(min_samples=1))
    amend(place, "cat/001", "dog")
    recorder = Recorder()
    assert waiting.watcher(recorder).once()
    assert recorder.runs == []
    assert read_status(waiting.task, waiting.store).trigger == "waits for 1 more sample"


def test_erasure_starts_a_run_once_it_is_complete(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    unlearn = with_task(place, erase=Erase(policy="retrain"))
    table = read_or_make_table(place.store.drops.read("a"), place.store)
    chosen = Selection("a test", "", "", table.digest_of(table.use.tolist().index(0)))
    monkeypatch.setattr("retrain.pipeline.erasure.rewrite_drop", interrupt)
    with pytest.raises(KeyboardInterrupt):
        erase([chosen], unlearn.task, place.store, Path(place.task.store, "cache"), "ann", "asked to")
    monkeypatch.undo()
    recorder = Recorder()
    assert place.store.drops.amendments.newest()
    assert unlearn.watcher(recorder).once()
    assert recorder.runs == []
    erase([], unlearn.task, place.store, Path(place.task.store, "cache"), "ann", "")
    assert unlearn.watcher(recorder).once()
    [run_id] = recorder.runs
    assert place.plan(run_id).reason.endswith("learnt from samples that were erased (erase.policy: retrain)")
    owners = place.owners()
    assert owners["_amendment-000001"] == owners["_erasure-000001"] == run_id
    planned = plan_removal(place.store, 1, timedelta(), utc_now())
    assert "claims" not in [removal.what for removal in planned.removals]
