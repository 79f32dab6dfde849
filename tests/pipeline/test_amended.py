"""Tests of runs on drops that were amended after their parent was trained."""

from pathlib import Path

import pytest
import torch
from support.workspaces import Workspace, make_task

from retrain.data.table_making import read_or_make_table
from retrain.pipeline import next_run, stages
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.pipeline.status import read_status
from retrain.records import Change, Plan, RunRecord
from retrain.store import LocalStore
from retrain.training.index_files import read_known_counters


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
