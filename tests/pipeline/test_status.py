"""The status of a task shows interrupted runs and removed drops."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from shutil import rmtree

import pytest
from support.lives import Life, make_task
from support.trainings import RecordingObserver

from retrain.cli.formatting import console, status_details
from retrain.config.resources import Kubeflow
from retrain.config.task import Task
from retrain.errors import DropError
from retrain.pipeline import retention, stages
from retrain.pipeline.planning import Request
from retrain.pipeline.status import Status, read_status
from retrain.records import Plan, RunRecord
from retrain.store import LocalStore
from retrain.training.progress import Progress
from retrain.utils.clock import utc_now

TASK, REQUEST = make_task(), Request()


@pytest.fixture
def life(tmp_path: Path) -> Life:
    """Return a task with one drop, in a folder."""
    life = Life(LocalStore(tmp_path / "store"), tmp_path / "work")
    life.land(0, 1)
    return life


def interrupt(life: Life, request: Request = REQUEST, task: Task = TASK) -> str:
    """Let the training of a run die at its third iteration. Return the run's id."""

    class Dying(RecordingObserver):
        def stepped(self, progress: Progress) -> None:
            if progress.iteration >= 3:
                raise KeyboardInterrupt

    before = set(life.store.objects.folders(life.store.keys.runs))
    with pytest.raises(KeyboardInterrupt):
        stages.run_task(replace(life.context, observer=Dying()), task, request)
    [run_id] = set(life.store.objects.folders(life.store.keys.runs)) - before
    return run_id


def save_state(life: Life, run_id: str) -> None:
    with life.store.run(run_id).checkpoints() as checkpoints:
        checkpoints.save(1200, b"a state")


def status(life: Life, task: Task = TASK) -> Status:
    return read_status(task, life.store)


def rows(life: Life) -> str:
    """Return the status as `retrain status` prints it, in one line."""
    shown = console()
    with shown.capture() as captured:
        shown.print(status_details(status(life)))
    return " ".join(captured.get().split())


def test_status_names_an_interrupted_run_until_it_ends(life: Life) -> None:
    assert status(life).unfinished == ()
    run_id = interrupt(life)
    told = f"unfinished {run_id} has not ended, it has no checkpoint yet: `retrain run --task pets` resumes it"
    assert told in rows(life)
    save_state(life, run_id)
    assert "its last checkpoint is of iteration 1,200" in rows(life)
    with life.store.run(run_id).checkpoints() as checkpoints:
        checkpoints.clear()
    ended = stages.run_task(life.context, TASK, Request())
    assert isinstance(ended, RunRecord)
    assert ended.run_id == run_id
    assert "unfinished" not in rows(life)


def test_status_names_the_process_that_works_on_a_run(life: Life) -> None:
    interrupt(life)
    with life.store.lock():
        [told] = status(life).unfinished
    assert told.endswith("is working on this task")
    assert "retrain run" not in told


def test_status_names_the_command_that_resumes_each_run(life: Life) -> None:
    """The named commands make the plans of the unfinished runs."""
    assert isinstance(stages.run_task(life.context, TASK, REQUEST), RunRecord)
    life.land(0, 1, seed=1)
    other = TASK.model_copy(update={"seed": 7})
    plain, baseline = interrupt(life), interrupt(life, Request(purpose="calibrate"))
    trial = interrupt(life, Request("naive", "trial"))
    seeded = interrupt(life, Request("naive", "trial"), other)
    says = {sentence.partition(" ")[0]: sentence.partition(": ")[2] for sentence in status(life).unfinished}
    command = "`retrain run --task pets --method naive --trial`"
    assert says == {
        plain: "`retrain run --task pets` resumes it",
        baseline: "`retrain baseline --task pets` resumes it",
        trial: f"{command} resumes it",
        seeded: f"{command} with the settings in {life.store.url}/pets/runs/{seeded}/plan.json resumes it",
    }
    on_kubeflow = TASK.model_copy(update={"kubeflow": Kubeflow(host="http://kfp")})
    assert all(one.endswith(", unless it is running on Kubeflow") for one in status(life, on_kubeflow).unfinished)


def test_status_names_a_watchers_run(life: Life) -> None:
    planned = stages.plan(life.context, TASK, REQUEST)
    assert isinstance(planned, Plan)
    claims = life.store.claims()
    claims.refresh()
    claims.claim(planned)
    [told] = status(life, TASK.model_copy(update={"seed": 7})).unfinished
    assert told == f"{planned.run_id} has not ended, it has no checkpoint yet: `retrain watch --task pets` continues it"


@pytest.mark.parametrize("request_", [Request(purpose="calibrate"), Request("scratch", "trial")])
def test_status_says_how_a_given_up_run_is_cleared(life: Life, request_: Request) -> None:
    run_id = interrupt(life, request_)
    life.land(0, 1, seed=1)
    assert status(life).unfinished == (), "nothing of it is left to clear"
    save_state(life, run_id)
    [told] = status(life).unfinished
    assert (
        "no command resumes it; `retrain gc --task pets` removes its checkpoints once a champion with its drops" in told
    )
    assert isinstance(stages.run_task(life.context, TASK, REQUEST), RunRecord)
    assert len(status(life).unfinished) == 1
    with life.store.lock() as ours:
        retention.remove(ours, retention.plan_removal(ours, 5, timedelta(0), utc_now()), utc_now())
    assert status(life).unfinished == ()


def test_status_names_removed_drop_as_the_next_plan_does(life: Life) -> None:
    [drop] = life.store.drops.all()
    assert isinstance(stages.run_task(life.context, TASK, Request()), RunRecord)
    life.land(0, 1, seed=1)
    assert status(life).removed == ()
    rmtree(Path(life.store.url) / "pets" / "drops" / drop.id)
    with pytest.raises(DropError, match="restore its folder from a copy of the store") as failed:
        stages.run_task(life.context, TASK, Request())
    assert f"removed {failed.value}" in rows(life)
    waits = make_task(trigger={"min_samples": 1000})
    assert status(life, waits).removed == (str(failed.value),)


def test_status_ignores_quarantined_drop_of_the_champion(life: Life) -> None:
    [drop] = life.store.drops.all()
    assert isinstance(stages.run_task(life.context, TASK, Request()), RunRecord)
    life.store.drops.quarantine(drop.id, "a test")
    assert status(life).removed == ()
