"""What the status of a task says of runs that were interrupted, and of drops that were removed."""

from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import pytest
from support.lives import Life, make_task
from support.trainings import RecordingObserver

from retrain.cli.formatting import console, status_details
from retrain.config.task import Task
from retrain.errors import DropError
from retrain.pipeline import stages
from retrain.pipeline.planning import Request
from retrain.pipeline.status import Status, read_status
from retrain.records import RunRecord
from retrain.store import LocalStore
from retrain.training.progress import Progress

TASK = make_task()


@pytest.fixture
def life(tmp_path: Path) -> Life:
    """Return a task with one drop, in a folder."""
    life = Life(LocalStore(tmp_path / "store"), tmp_path / "work")
    life.land(0, 1)
    return life


def interrupt(life: Life) -> str:
    """Let the training of the next run die at its third iteration. Return the run's id."""

    class Dying(RecordingObserver):
        def stepped(self, progress: Progress) -> None:
            if progress.iteration >= 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.run_task(replace(life.context, observer=Dying()), TASK, Request())
    [run_id] = set(life.store.objects.folders(life.store.keys.runs)) - life.store.ledger.run_ids()
    return run_id


def status(life: Life, task: Task = TASK) -> Status:
    return read_status(task, life.store)


def rows(life: Life) -> str:
    """Return the status as `retrain status` prints it, in one line."""
    shown = console()
    with shown.capture() as captured:
        shown.print(status_details(status(life)))
    return " ".join(captured.get().split())


def test_status_names_an_interrupted_run_until_it_ends(life: Life) -> None:
    assert status(life).unfinished is None
    run_id = interrupt(life)
    told = f"unfinished {run_id} has not ended, it has no checkpoint yet: `retrain run --task pets` resumes it"
    assert told in rows(life)
    with life.store.run(run_id).checkpoints() as checkpoints:
        checkpoints.save(1200, b"a state")
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
        told = status(life).unfinished
    assert told
    assert told.endswith("is working on this task")
    assert "retrain run" not in told


def test_status_leaves_out_a_run_that_no_command_resumes(life: Life) -> None:
    interrupt(life)
    assert status(life, TASK.model_copy(update={"seed": 7})).unfinished is None


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
