"""Effects of an erasure on earlier and later runs, on their files, and on the sums of the ledger."""

from pathlib import Path
from shutil import copytree

import pytest
from support.workspaces import Workspace, make_task

from retrain.data.finding import Selection
from retrain.data.table_making import read_or_make_table
from retrain.errors import DropError, RunError
from retrain.pipeline import next_run, stages
from retrain.pipeline.erasure import erase, find_affected_runs
from retrain.pipeline.mistake_keys import name_mistakes
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.pipeline.status import read_status
from retrain.records import ErasedSample, Erasure, Plan, RunRecord, Verdict
from retrain.records.ledger import total_savings
from retrain.store import LocalStore
from retrain.training.index_files import read_known_counters
from retrain.utils.clock import utc_now

TASK = make_task()
UNLEARN = make_task(erase={"policy": "retrain"})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Return a task with a champion trained on one drop."""
    workspace = Workspace(LocalStore(tmp_path / "store"), tmp_path)
    workspace.land(0, 1, 2)
    assert isinstance(stages.run_task(workspace.context, TASK, Request()), RunRecord)
    return workspace


def forget(workspace: Workspace, use: int) -> Erasure:
    """Erase the second sample of a split. `use` is 0 for train, 1 for val, and 2 for test."""
    [drop, *_] = workspace.store.drops.all()
    table = read_or_make_table(drop, workspace.store)
    row = (table.use == use).nonzero()[0].tolist()[1]
    chosen = Selection("a test", "", "", table.digest_of(row))
    [erasure] = erase([chosen], TASK, workspace.store, workspace.context.cache, "ann", "asked to").erasures
    return erasure


def next_plan(workspace: Workspace, task: object = TASK) -> Plan:
    planned = next_run.plan_next_run(workspace.store, task, Request())
    assert isinstance(planned, Plan)
    return planned


def test_next_run_continues_without_the_erased_sample(workspace: Workspace) -> None:
    [first], [drop] = workspace.store.ledger.read(), workspace.store.drops.all()
    kept = workspace.context.cache.glob("*")
    assert sum(1 for _ in kept)
    erasure = forget(workspace, 0)
    assert not list(workspace.context.cache.glob("*"))
    [told] = read_status(TASK, workspace.store).erasures
    assert told.startswith(f"champion {first.run_id} was trained on samples of erasure 1; ")
    [run] = erasure.runs
    assert (run.run_id, run.saw, run.has_model, run.is_champion) == (first.run_id, "trained on them", True, True)
    planned = next_plan(workspace)
    assert planned.method == "continuous"
    assert planned.dataset.samples == drop.samples("train") - 1
    files = workspace.store.run(first.run_id)
    [(_, before)] = files.index([drop.id])
    [after] = read_known_counters(files, planned.dataset, planned.known)
    assert after.seen.tolist() == [count for place, count in enumerate(before["seen"].tolist()) if place != 1]
    second = stages.run_task(workspace.context, TASK, Request())
    assert isinstance(second, RunRecord)
    assert second.method == "continuous"
    [told] = read_status(TASK, workspace.store).erasures
    assert told.startswith(f"champion {second.run_id} continues from a run that was trained on samples of erasure 1; ")
    assert workspace.store.ledger.read()[0] == first
    assert total_savings(workspace.store.ledger.read()) == total_savings([first, second])
    assert erasure.reason == "asked to"


def test_policy_retrain_starts_from_scratch_once(workspace: Workspace) -> None:
    forget(workspace, 0)
    planned = next_plan(workspace, UNLEARN)
    assert planned.method == "scratch"
    assert "learnt from samples that were erased (erase.policy: retrain)" in planned.reason
    assert any("the next run is from scratch" in told for told in read_status(UNLEARN, workspace.store).erasures)
    ended = stages.run_task(workspace.context, UNLEARN, Request())
    assert isinstance(ended, RunRecord)
    assert ended.decision
    assert ended.decision.promoted
    assert read_status(UNLEARN, workspace.store).erasures == ()
    workspace.land(0, 1, seed=1)
    assert next_plan(workspace, UNLEARN).method == "continuous"


def test_unlearning_does_not_wait_for_the_trigger(workspace: Workspace) -> None:
    forget(workspace, 0)
    conditions = {"min_samples": 1000, "expected_saving": 0.9}
    planned = next_plan(workspace, make_task(erase={"policy": "retrain"}, trigger=conditions))
    assert planned.method == "scratch"
    assert planned.reason.endswith("erased samples must be unlearnt, whatever the conditions of trigger are")
    for keeps, paused in (("retrain", True), ("keep", False)):
        task = make_task(erase={"policy": keeps}, trigger={**conditions, "pause": paused})
        assert isinstance(next_run.plan_next_run(workspace.store, task, Request()), NoRunNeeded)


def test_erasure_names_the_descendants_of_a_run(workspace: Workspace) -> None:
    workspace.land(0, 1, 2, seed=1)
    second = stages.run_task(workspace.context, TASK, Request())
    assert isinstance(second, RunRecord)
    assert second.parent
    workspace.store.objects.delete(workspace.store.keys.manifest(workspace.store.drops.all()[1].id))
    erasure = forget(workspace, 0)
    assert {run.run_id: run.saw for run in erasure.runs} == dict.fromkeys(
        (second.parent, second.run_id), "trained on them"
    )


def test_old_run_is_evaluated_without_erased_sample(workspace: Workspace) -> None:
    [first], [drop] = workspace.store.ledger.read(), workspace.store.drops.all()
    erasure = forget(workspace, 2)
    assert [run.saw for run in erasure.runs] == ["measured on them"]
    assert workspace.store.run(first.run_id).errors()
    plan = workspace.store.run(first.run_id).plan()
    [test] = workspace.context.samples(plan.dataset, ["test"], TASK.data, plan.loading).values()
    assert len(test) == drop.samples("test") - 1
    with pytest.raises(DropError, match="erased since this run was planned: plan a new run with `retrain run`"):
        workspace.context.samples(plan.dataset, ["train", "val"], TASK.data, plan.loading)
    assert workspace.store.drops.quarantine_reports() == {}


def test_stream_leaves_erased_samples_out(workspace: Workspace) -> None:
    forget(workspace, 0)
    planned = next_plan(workspace, make_task(data={**TASK.data.model_dump(), "loader": "stream"}))
    found = workspace.context.samples(planned.dataset, ["train", "val"], planned.task.data, planned.loading)
    assert len(found["train"]) == planned.dataset.samples


def test_thumbnails_of_erased_drops_are_deleted(workspace: Workspace, tmp_path: Path) -> None:
    worse = Workspace(LocalStore(tmp_path / "worse"), tmp_path / "other")
    copytree(tmp_path / "store", tmp_path / "worse")
    worse.land(0, 1, 2, seed=1, mislabelled=True)
    ended = stages.run_task(worse.context, TASK, Request())
    assert isinstance(ended, RunRecord)
    before = worse.store.run(ended.run_id).errors()
    assert before
    assert any(mistake.thumbnail for mistake in before.mistakes)
    erasure = forget(worse, 2)
    [gone] = {sample.drop for sample in erasure.samples}
    after = worse.store.run(ended.run_id).errors()
    assert after
    shown = {mistake.where.partition(",")[0] for mistake in after.mistakes if mistake.thumbnail}
    assert gone not in shown
    assert (after.classes, after.confusions) == (before.classes, before.confusions)
    named = name_mistakes(after.mistakes, ended.run_id, worse.store)
    positions = {one.where.partition(",")[0] for one in named if ", test image " in one.where}
    assert positions == {gone}, "mistakes on the erased drop are no longer named by key"


def test_waiting_candidate_is_rejected_by_an_erasure(workspace: Workspace) -> None:
    manual = make_task(gate={"margin": 1.0, "approval": "manual"})
    workspace.land(0, 1, 2, seed=1)
    waiting = stages.run_task(workspace.context, manual, Request())
    assert not isinstance(waiting, RunRecord)
    forget(workspace, 0)
    [approval] = workspace.store.approvals.unfinished()
    assert isinstance(approval.verdict, Verdict)
    assert approval.verdict.kind == "rejected"
    assert approval.verdict.at <= utc_now()
    ended = stages.run_task(workspace.context, manual, Request())
    assert not isinstance(ended, next_run.NoRunNeeded)
    [record] = [one for one in workspace.store.ledger.read() if one.run_id == approval.run_id]
    assert record.ending == "refused"


def test_erasure_reads_each_version_of_a_drop_once(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    [drop] = workspace.store.drops.all()
    for method in ("scratch", "naive"):
        assert isinstance(stages.run_task(workspace.context, TASK, Request(method, "trial")), RunRecord)
    read, read_object = [], LocalStore.read
    monkeypatch.setattr(LocalStore, "read", lambda store, key: read.append(key) or read_object(store, key))
    sample = ErasedSample(drop=drop.id, row=0, content="")
    assert len(list(find_affected_runs([sample], workspace.store))) == 3
    assert drop.sample_list
    assert read.count(workspace.store.keys.drop_file(drop.id, drop.sample_list.name)) == 1


def test_run_without_test_images_is_neither_scored_nor_promoted(tmp_path: Path) -> None:
    """All test images are erased after the training, and before the evaluation."""
    workspace = Workspace(LocalStore(tmp_path / "store"), tmp_path)
    workspace.land(0, 1, 2)
    plan = next_plan(workspace)
    stages.BY_NAME["train"](workspace.context, plan)
    [drop] = workspace.store.drops.all()
    table = read_or_make_table(drop, workspace.store)
    chosen = [Selection("a test", "", "", table.digest_of(row)) for row in (table.use == 2).nonzero()[0].tolist()]
    erase(chosen, TASK, workspace.store, workspace.context.cache, "ann", "asked to")
    for stage in ("evaluate", "promote"):
        with pytest.raises(RunError, match="cannot be evaluated: all its test images were erased"):
            stages.BY_NAME[stage](workspace.context, plan)
    assert workspace.store.champion.read().champion is None
