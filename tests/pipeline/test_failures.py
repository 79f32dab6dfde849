"""A failed run is recorded once, its iterations count as used, and the next run repeats its training."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.trainings import RecordingObserver
from support.workspaces import TASK, Workspace, champion, make_task, plan, records, run

from retrain.pipeline import stages
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.records import Plan
from retrain.records.ledger import total_savings
from retrain.store import LocalStore, ObjectStore
from retrain.training.progress import Progress


@pytest.fixture
def workspace(store: ObjectStore, tmp_path: Path) -> Workspace:
    """Return an empty task on each kind of store."""
    return Workspace(store, tmp_path / "work")


@pytest.fixture
def local(tmp_path: Path) -> Workspace:
    """Return an empty task in a folder."""
    return Workspace(LocalStore(tmp_path / "store"), tmp_path / "work")


class Breaks(RecordingObserver):
    """An observer that raises an error when the run with this number starts."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number

    def started(self, plan: Plan, progress: Progress) -> None:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("no space left on device")


class BreaksAt(RecordingObserver):
    """An observer that raises an error in the iteration with this number."""

    def __init__(self, iteration: int) -> None:
        super().__init__()
        self.iteration = iteration

    def stepped(self, progress: Progress) -> None:
        if progress.iteration == self.iteration:
            raise RuntimeError("no space left on device")


def test_failed_run_is_a_cost_and_its_checkpoints_are_removed(workspace: Workspace) -> None:
    workspace.land(0, 1)
    saving = make_task(training={**TASK.training.model_dump(), "save_seconds": 0})
    with pytest.raises(RuntimeError):
        stages.run_task(replace(workspace.context, observer=BreaksAt(7)), saving, Request())
    [failed] = records(workspace)
    assert failed.savings
    assert (failed.savings.used, failed.savings.gross, failed.savings.net) == (6, -6, -6)
    assert not [key for key in workspace.contents() if "/state/" in key]
    again = run(workspace, saving)
    assert again.savings
    assert total_savings(records(workspace)).gross == -6


def test_failure_is_recorded_and_the_next_run_tries_again(workspace: Workspace) -> None:
    workspace.land(0, 1)
    with pytest.raises(RuntimeError, match="no space left"):
        stages.run_task(replace(workspace.context, observer=Breaks(1)), TASK, Request())
    [failed] = records(workspace)
    assert (failed.outcome, failed.error) == ("failed", "RuntimeError: no space left on device")
    assert champion(workspace) is None
    again = run(workspace)
    assert (again.outcome, champion(workspace)) == ("completed", again.run_id)
    assert again.run_id != failed.run_id


def test_failed_escalation_has_its_own_record(local: Workspace) -> None:
    local.land(0, 1, 2)
    run(local)
    local.land(0, 1, 2, seed=1, mislabelled=True)
    with pytest.raises(RuntimeError):
        stages.run_task(replace(local.context, observer=Breaks(2)), TASK, Request())
    assert [(record.outcome, record.scale) for record in records(local)[1:]] == [("missed", 0.5), ("failed", 1.0)]
    last = run(local)
    assert [(record.outcome, record.attempt) for record in records(local)[3:]] == [("missed", 1), ("completed", 2)]
    assert last.method == "scratch"


def test_promoted_run_is_not_recorded_as_failed(local: Workspace) -> None:
    local.land(0, 1)
    planned = stages.train(local.context, plan(local))
    stages.promote(local.context, planned)
    record = stages.record_failure(local.context, planned, "the last step's pod was evicted")
    assert record.decision
    assert (record.outcome, record.error, record.decision.promoted) == ("completed", None, True)


def test_failure_reported_twice_is_recorded_once(local: Workspace) -> None:
    local.land(0, 1)
    planned = plan(local)
    first = stages.record_failure(local.context, planned, "evicted")
    assert stages.record_failure(local.context, planned, "evicted again") == first
    assert records(local) == [first]


def test_damaged_drop_is_quarantined_until_repaired(workspace: Workspace) -> None:
    workspace.land(0, 1)
    first = run(workspace)
    drop = workspace.land(0, 1, seed=1)
    key = workspace.store.keys.drop_file(drop.id, drop.shards[0].name)
    whole, _ = workspace.store.objects.read(key)
    workspace.store.objects.write(key, whole[:-1000])
    assert isinstance(stages.run_task(workspace.context, TASK, Request()), NoRunNeeded)
    [_, failed] = records(workspace)
    assert (failed.outcome, failed.error) == ("failed", workspace.store.drops.quarantine_causes()[drop.id])
    assert champion(workspace) == first.run_id
    workspace.store.objects.write(key, whole)
    workspace.store.objects.delete(workspace.store.keys.quarantine(drop.id))
    assert run(workspace).outcome == "reached"
