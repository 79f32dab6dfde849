"""The status of a task shows interrupted runs and removed drops."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from shutil import rmtree

import pytest
from support.trainings import RecordingObserver
from support.workspaces import Workspace, make_task

from retrain.cli.formatting import console, status_details
from retrain.config.resources import Kubeflow
from retrain.config.task import Task
from retrain.errors import DropError
from retrain.pipeline import retention, stages
from retrain.pipeline.next_run import plan_next_run
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.pipeline.status import Status, read_status
from retrain.records import Plan, RunRecord
from retrain.store import LocalStore
from retrain.training.progress import Progress
from retrain.utils.clock import utc_now

TASK, REQUEST = make_task(), Request()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Return a task with one drop, in a folder."""
    workspace = Workspace(LocalStore(tmp_path / "store"), tmp_path / "work")
    workspace.land(0, 1)
    return workspace


def interrupt(workspace: Workspace, request: Request = REQUEST, task: Task = TASK) -> str:
    """Interrupt the training of a run at its third iteration, and return the run's id."""

    class Dying(RecordingObserver):
        def stepped(self, progress: Progress) -> None:
            if progress.iteration >= 3:
                raise KeyboardInterrupt

    before = set(workspace.store.objects.folders(workspace.store.keys.runs))
    with pytest.raises(KeyboardInterrupt):
        stages.run_task(replace(workspace.context, observer=Dying()), task, request)
    [run_id] = set(workspace.store.objects.folders(workspace.store.keys.runs)) - before
    return run_id


def save_state(workspace: Workspace, run_id: str) -> None:
    with workspace.store.run(run_id).checkpoints() as checkpoints:
        checkpoints.save(1200, b"a state")


def status(workspace: Workspace, task: Task = TASK) -> Status:
    return read_status(task, workspace.store)


def rows(workspace: Workspace) -> str:
    """Return the status as `retrain status` prints it, in one line."""
    shown = console()
    with shown.capture() as captured:
        shown.print(status_details(status(workspace)))
    return " ".join(captured.get().split())


def test_status_names_an_interrupted_run_until_it_ends(workspace: Workspace) -> None:
    assert status(workspace).unfinished == ()
    run_id = interrupt(workspace)
    restart = "`retrain run --task pets` starts it again from the beginning"
    told = f"unfinished {run_id} has not ended; it has no checkpoint yet: {restart}"
    assert told in rows(workspace)
    save_state(workspace, run_id)
    assert "its last checkpoint is of iteration 1,200: `retrain run --task pets` resumes it" in rows(workspace)
    with workspace.store.run(run_id).checkpoints() as checkpoints:
        checkpoints.clear()
    ended = stages.run_task(workspace.context, TASK, Request())
    assert isinstance(ended, RunRecord)
    assert ended.run_id == run_id
    assert "unfinished" not in rows(workspace)


def test_status_names_the_process_that_works_on_a_run(workspace: Workspace) -> None:
    interrupt(workspace)
    with workspace.store.lock():
        [told] = status(workspace).unfinished
    assert told.endswith("is working on this task")
    assert "retrain run" not in told


def test_status_names_the_command_that_resumes_each_run(workspace: Workspace) -> None:
    """Check that each command makes the plan of its unfinished run again."""
    assert isinstance(stages.run_task(workspace.context, TASK, REQUEST), RunRecord)
    workspace.land(0, 1, seed=1)
    other = TASK.model_copy(update={"seed": 7})
    plain, baseline = interrupt(workspace), interrupt(workspace, Request(purpose="calibrate"))
    trial = interrupt(workspace, Request("naive", "trial"))
    seeded = interrupt(workspace, Request("naive", "trial"), other)
    advice = {sentence.partition(" ")[0]: sentence.partition(": ")[2] for sentence in status(workspace).unfinished}
    command, starts = "`retrain run --task pets --method naive --trial`", "starts it again from the beginning"
    plan = f"{workspace.store.url}/pets/runs/{seeded}/plan.json"
    assert advice == {
        plain: f"`retrain run --task pets` {starts}",
        baseline: f"`retrain baseline --task pets` {starts}",
        trial: f"{command} {starts}",
        seeded: f"with the settings of {plan} in the task file, {command} {starts}",
    }
    on_kubeflow = TASK.model_copy(update={"kubeflow": Kubeflow(host="http://kfp")})
    assert all(one.endswith(", unless it is running on Kubeflow") for one in status(workspace, on_kubeflow).unfinished)


def test_status_names_a_watchers_run(workspace: Workspace) -> None:
    planned = stages.plan(workspace.context, TASK, REQUEST)
    assert isinstance(planned, Plan)
    claims = workspace.store.claims()
    claims.refresh()
    claims.claim(planned)
    [told] = status(workspace, TASK.model_copy(update={"seed": 7})).unfinished
    restart = "`retrain watch --task pets` starts it again from the beginning"
    assert told == f"{planned.run_id} has not ended; it has no checkpoint yet: {restart}"


@pytest.mark.parametrize("request_", [Request(purpose="calibrate"), Request("scratch", "trial")])
def test_status_names_the_command_that_clears_an_abandoned_run(workspace: Workspace, request_: Request) -> None:
    run_id = interrupt(workspace, request_)
    workspace.land(0, 1, seed=1)
    assert status(workspace).unfinished == (), "the run has left no checkpoint"
    save_state(workspace, run_id)
    [told] = status(workspace).unfinished
    assert "`retrain gc --task pets` removes its checkpoints 90 days (--older-than) after the promotion" in told
    assert isinstance(stages.run_task(workspace.context, TASK, REQUEST), RunRecord)
    assert len(status(workspace).unfinished) == 1
    with workspace.store.lock() as locked:
        retention.remove(locked, retention.plan_removal(locked, 5, timedelta(0), utc_now()), utc_now())
    assert status(workspace).unfinished == ()


def test_status_and_next_plan_name_a_removed_drop_alike(workspace: Workspace) -> None:
    [drop] = workspace.store.drops.all()
    assert isinstance(stages.run_task(workspace.context, TASK, Request()), RunRecord)
    workspace.land(0, 1, seed=1)
    assert status(workspace).removed == ()
    rmtree(Path(workspace.store.url) / "pets" / "drops" / drop.id)
    with pytest.raises(DropError, match="restore its folder from a copy of the store") as failed:
        stages.run_task(workspace.context, TASK, Request())
    assert f"removed {failed.value}" in rows(workspace)
    waits = make_task(trigger={"min_samples": 1000})
    assert status(workspace, waits).removed == (str(failed.value),)


def test_status_ignores_quarantined_drop_of_the_champion(workspace: Workspace) -> None:
    [drop] = workspace.store.drops.all()
    assert isinstance(stages.run_task(workspace.context, TASK, Request()), RunRecord)
    workspace.store.drops.quarantine(drop.id, "a test")
    assert status(workspace).removed == ()


def test_status_advises_after_a_diverged_run(workspace: Workspace) -> None:
    assert isinstance(stages.run_task(workspace.context, TASK, REQUEST), RunRecord)
    workspace.land(0, 1, seed=1)
    exploding = make_task(training={**TASK.training.model_dump(), "optimizer": {"name": "sgd", "learning_rate": 1e38}})
    diverged = stages.run_task(workspace.context, exploding, REQUEST)
    assert isinstance(diverged, RunRecord)
    trigger = status(workspace, exploding).trigger
    assert trigger is not None
    assert f"{diverged.run_id} diverged; its loss was not finite. Set a lower" in trigger
    assert status(workspace).trigger is None, "with other settings, another run would start"


def test_status_and_plan_name_uploads_not_committed(workspace: Workspace) -> None:
    stages.run_task(workspace.context, TASK, REQUEST)
    assert "uploaded" not in rows(workspace)
    store = workspace.store
    store.objects.write(store.keys.drop_file("week-2", "cat/1.png"), b"an image")
    assert "uploaded week-2: 1 file without _SUCCESS: write an empty _SUCCESS" in rows(workspace)
    store.objects.write(store.keys.drop_file("week-2", "_SUCCESS"), b"")
    assert "uploaded week-2: the upload is complete, but not yet checked: `retrain watch`" in rows(workspace)
    planned = plan_next_run(store, TASK, REQUEST)
    assert isinstance(planned, NoRunNeeded)
    assert planned.reason.endswith("; 1 upload not committed yet: week-2; `retrain status` says what each lacks")
    store.drops.quarantine("week-2", "no image")
    assert status(workspace).uploads == ()
