"""Tests of runs on drops that were amended after their parent was trained."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from support.histories import DEFAULT, Past, configured, drop, one_drop
from support.workspaces import Workspace, make_task

from retrain.data.table_making import read_or_make_table
from retrain.pipeline import next_run, retention, stages
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.pipeline.status import read_status
from retrain.records import Change, Plan, RunRecord
from retrain.store import LocalStore
from retrain.training.index_files import read_known_counters
from retrain.utils.clock import utc_now


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(LocalStore(tmp_path / "store"), tmp_path)
    workspace.land(0, 1, 2)
    return workspace


def change(workspace: Workspace, row: int, after: str | None) -> Change:
    """Amend the sample of a row of the only drop."""
    [drop] = workspace.store.drops.all()
    table = read_or_make_table(drop, workspace.store)
    made = Change(
        drop=drop.id,
        row=row,
        key=table.keys[row],
        content=table.digest_of(row),
        split=("train", "val", "test")[table.use[row]],
        before=table.class_of(row),
        after=after,
        reason="a test",
        author="tests",
    )
    workspace.store.drops.amendments.append([made])
    return made


def test_amendment_starts_a_run_with_adapted_counters(workspace: Workspace) -> None:
    task = make_task()
    first = stages.run_task(workspace.context, task, Request())
    assert isinstance(first, RunRecord)
    assert isinstance(next_run.plan_next_run(workspace.store, task, Request()), NoRunNeeded)
    assert not read_status(task, workspace.store).is_amended
    [drop] = workspace.store.drops.all()
    table = read_or_make_table(drop, workspace.store)
    trained = (table.use == 0).nonzero()[0].tolist()
    change(workspace, trained[1], None)
    relabelled = change(workspace, trained[3], "class-1" if table.class_of(trained[3]) != "class-1" else "class-0")
    assert read_status(task, workspace.store).is_amended
    waits = next_run.plan_next_run(workspace.store, make_task(trigger={"min_samples": 1}), Request())
    assert isinstance(waits, NoRunNeeded)
    assert waits.reason == "waits for 1 more sample"
    planned = next_run.plan_next_run(workspace.store, task, Request())
    assert isinstance(planned, Plan)
    assert planned.reason.startswith(f"1 drop amended since {first.run_id}")
    assert planned.dataset.samples == drop.samples("train") - 1
    files = workspace.store.run(first.run_id)
    [(_, before)] = files.index([drop.id])
    [after] = read_known_counters(files, planned.dataset, planned.known)
    kept = [place for place in range(len(trained)) if place != 1]
    expected = before["seen"][kept].clone()
    expected[kept.index(3)] = 0
    assert torch.equal(after.seen, expected)
    train = workspace.context.samples(planned.dataset, ["train"], task.data, planned.loading)["train"]
    assert planned.dataset.classes[train.labels[kept.index(3)]] == relabelled.after
    old = workspace.context.samples(files.plan().dataset, ["train"], task.data, planned.loading)["train"]
    assert len(old) == len(train) + 1
    second = stages.run_task(workspace.context, task, Request())
    assert isinstance(second, RunRecord)
    assert second.method == "continuous"
    assert not read_status(task, workspace.store).is_amended


def test_plan_warns_of_corrected_validation_images(workspace: Workspace) -> None:
    """Only corrections of val count, and only until a scratch run measures the baseline on the corrected drop."""
    task = make_task()
    first = stages.run_task(workspace.context, task, Request())
    assert isinstance(first, RunRecord)
    [drop] = workspace.store.drops.all()
    use = read_or_make_table(drop, workspace.store).use.tolist()

    def warned() -> list[str]:
        plan = next_run.plan_next_run(workspace.store, task, Request())
        assert isinstance(plan, Plan)
        return [warning for warning in plan.warnings if "have been corrected or removed since" in warning]

    change(workspace, use.index(0), None)
    assert not warned()
    change(workspace, use.index(1), None)
    [warning] = warned()
    assert warning.startswith(f"up to 1 of the {drop.samples('val')} validation images that {first.run_id} measured")
    assert isinstance(stages.run_task(workspace.context, task, Request(purpose="calibrate")), RunRecord)
    assert not warned()


def test_correction_waits_at_most_for_max_wait(workspace: Workspace) -> None:
    """The time counts from the correction, and not from the drop or from the next one."""
    task = make_task(trigger={"min_samples": 1, "max_wait": "2d"})
    assert isinstance(stages.run_task(workspace.context, make_task(), Request()), RunRecord)
    change(workspace, 1, None)
    [amendment] = workspace.store.drops.amendments.read()
    plan_at = [
        next_run.plan_next_run(workspace.store, task, Request(), amendment.at + timedelta(hours=hours))
        for hours in (47, 48)
    ]
    assert isinstance(plan_at[0], NoRunNeeded)
    assert plan_at[0].reason.startswith("waits for 1 more sample, or until ")
    assert isinstance(plan_at[1], Plan)
    assert plan_at[1].reason.endswith("the oldest drop or correction has waited for trigger.max_wait 2d")


def test_undone_correction_is_trained_from_the_champion(workspace: Workspace) -> None:
    task = make_task()
    assert isinstance(stages.run_task(workspace.context, task, Request()), RunRecord)
    [drop] = workspace.store.drops.all()
    table = read_or_make_table(drop, workspace.store)
    row = table.use.tolist().index(0)
    right, parents = table.class_of(row), []
    wrong = "class-1" if right != "class-1" else "class-0"
    for after in (wrong, right) * 2:
        change(workspace, row, after)
        assert read_status(task, workspace.store).is_amended
        before = workspace.store.champion.read().run_id
        ended = stages.run_task(workspace.context, task, Request())
        assert isinstance(ended, RunRecord)
        assert (ended.ending, ended.parent) == ("promoted", before)
        assert not read_status(task, workspace.store).is_amended
        assert isinstance(next_run.plan_next_run(workspace.store, task, Request()), NoRunNeeded)
        with workspace.store.lock() as locked:
            retention.remove(locked, retention.plan_removal(locked, 0, timedelta(0), utc_now()), utc_now())
        parents.append(ended.parent)
    assert len({*parents}) == 4


def amended(past: Past, version: str) -> Past:
    """Return a history in which the first drop has this version."""
    past.drops[0] = drop(1).model_copy(update={"digest": version})
    return past


def test_rolled_back_correction_is_not_trained_again() -> None:
    past = amended(one_drop(), "content-1")
    first = past.champion
    past.ended(amended(past, "corrected").plan())
    second = past.champion
    undone = past.ended(amended(past, "content-1").plan())
    assert undone.parent == second.run_id
    past.champion = second
    assert f"{undone.run_id} was trained on these drops and promoted, and later replaced" in done(past)
    assert past.plan(Request("continuous"), configured(seed=1)).parent == second.run_id
    past.champion = first
    assert "no drop has landed since" in done(past)
    assert "promoted, and later replaced" in done(amended(past, "corrected"))


def test_refused_correction_is_trained_after_a_new_champion() -> None:
    past = one_drop()
    refused = past.ended(amended(past, "corrected").plan(), promoted=False)
    assert f"{refused.run_id} was trained on these drops and refused" in done(past)
    other = past.ended(amended(past, "corrected otherwise").plan())
    again = amended(past, "corrected").plan()
    assert (again.parent, again.run_id == refused.run_id) == (other.run_id, False)
    refused_again = past.ended(again, promoted=False)
    assert f"{refused_again.run_id} was trained on these drops and refused" in done(past)


def test_scratch_run_is_repeated_for_an_undone_correction() -> None:
    """A scratch run has no parent, so its plan equals the plan of the run on the same version of the drops."""
    past = one_drop(configured(model={"name": "mlp"}))
    past.scratch_runs = []
    plans = []
    for version in ("corrected", "content-1") * 2:
        plans.append(amended(past, version).plan())
        past.ended(plans[-1])
        past.scratch_runs = []
        assert "no drop has landed since" in done(past)
    assert [plan.method for plan in plans] == ["scratch"] * 4
    assert [plan.retry for plan in plans] == [0, 0, 1, 1]


def test_requested_scratch_run_is_not_repeated() -> None:
    past = one_drop()
    past.ended(past.plan(Request("scratch")))
    assert "this run has ended" in done(past, Request("scratch"))


def done(past: Past, request: Request = DEFAULT) -> str:
    planned = past.next(request)
    assert isinstance(planned, NoRunNeeded), planned
    return planned.reason


def test_class_without_training_images_is_left_out_of_the_gate(workspace: Workspace) -> None:
    [drop] = workspace.store.drops.all()
    table = read_or_make_table(drop, workspace.store)
    for row in (table.use == 0).nonzero()[0].tolist():
        if table.class_of(row) == "class-2":
            change(workspace, row, None)
    ended = stages.run_task(workspace.context, make_task(), Request())
    assert isinstance(ended, RunRecord)
    assert ended.evaluation
    assert ended.evaluation.by_class.keys() == {"class-0", "class-1"}
    assert ended.evaluation.samples == sum(drop.counts["test"][name] for name in ("class-0", "class-1"))
    assert any("no training image of class-2" in one for one in workspace.store.run(ended.run_id).plan().warnings)
