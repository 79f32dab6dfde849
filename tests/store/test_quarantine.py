"""Drops that are damaged after their commit are quarantined with a report, and retraining continues without them."""

import json
from pathlib import Path

import pytest
from support.terminal import retrain
from support.watching import TaskUnderTest
from support.workspaces import Workspace, make_task

from retrain.cli.drop_tables import samples
from retrain.errors import DamagedDrop
from retrain.kubeflow import steps
from retrain.monitoring.exporter import TaskState
from retrain.pipeline import stages
from retrain.pipeline.executor import InProcessExecutor
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.pipeline.status import read_status
from retrain.records import Drop, Plan, RunRecord
from retrain.store import LocalStore

TASK = make_task()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("RETRAIN_CACHE", str(tmp_path / "cache"))
    return Workspace(LocalStore(tmp_path / "store"), tmp_path)


def run(workspace: Workspace) -> RunRecord:
    ended = stages.run_task(workspace.context, TASK, Request())
    assert isinstance(ended, RunRecord)
    return ended


def damage(workspace: Workspace, drop: Drop) -> None:
    """Flip one bit in the middle of a drop's first shard (its size stays), and remove the drop from the cache."""
    key = workspace.store.keys.drop_file(drop.id, drop.shards[0].name)
    data = bytearray(workspace.store.objects.read(key)[0])
    data[len(data) // 2] ^= 1
    workspace.store.objects.write(key, bytes(data))
    for cached in workspace.context.cache.glob(f"{drop.digest}-*"):
        cached.unlink()


def quarantined(workspace: Workspace) -> list[str]:
    return list(workspace.store.drops.quarantine_causes())


def test_run_with_a_damaged_new_drop_uses_the_other_drops(workspace: Workspace) -> None:
    first = workspace.land(0, 1)
    run(workspace)
    bad, good = workspace.land(0, 1, seed=1), workspace.land(0, 1, seed=2)
    damage(workspace, bad)
    ended = run(workspace)
    assert (ended.drops, ended.new_drops) == ((first.id, good.id), (good.id,))
    assert workspace.store.champion.read().run_id == ended.run_id
    assert quarantined(workspace) == [bad.id]
    assert f"{bad.id}/{bad.shards[0].name}" in workspace.store.drops.quarantine_causes()[bad.id]
    outcomes = [(record.outcome, bad.id in record.new_drops) for record in workspace.store.ledger.read()]
    assert outcomes == [("completed", False), ("failed", True), ("reached", False)]


def test_damaged_old_drop_keeps_the_champions_class_order(workspace: Workspace) -> None:
    bad, good = workspace.land(0, 1), workspace.land(2, 1, seed=1)
    first = run(workspace)
    workspace.land(0, 2, seed=2)
    damage(workspace, bad)
    ended = run(workspace)
    assert ended.parent == first.run_id
    assert ended.drops[:1] == (good.id,)
    plan = workspace.context.files(ended.run_id).plan()
    assert plan.dataset.classes == workspace.context.files(first.run_id).plan().dataset.classes
    assert (plan.known, plan.dataset.classes) == (1, ("class-0", "class-1", "class-2"))
    assert ended.evaluation
    assert ended.evaluation.accuracy > 0.8


def test_class_whose_only_drop_is_damaged_keeps_its_output(workspace: Workspace) -> None:
    bad = workspace.land(0)
    run(workspace)
    workspace.land(1, 2, seed=1)
    run(workspace)
    workspace.land(1, 2, seed=2)
    damage(workspace, bad)
    ended = run(workspace)
    assert workspace.context.files(ended.run_id).plan().dataset.classes == ("class-0", "class-1", "class-2")
    assert ended.evaluation
    assert ended.evaluation.by_class.keys() == {"class-1", "class-2"}


@pytest.mark.parametrize("harm", ["truncated manifest", "another task's manifest", "wrong counts", "missing shard"])
def test_damaged_manifest_or_shard_quarantines_only_its_drop(workspace: Workspace, harm: str) -> None:
    first = workspace.land(0, 1)
    run(workspace)
    bad, good = workspace.land(0, 1, seed=1), workspace.land(0, 1, seed=2)
    key = workspace.store.keys.manifest(bad.id)
    text = workspace.store.objects.read(key)[0]
    shard = workspace.store.keys.drop_file(bad.id, bad.shards[0].name)
    match harm:
        case "truncated manifest":
            workspace.store.objects.write(key, text[: len(text) // 2])
        case "another task's manifest":
            workspace.store.objects.write(key, text.replace(b'"task": "pets"', b'"task": "cars"'))
        case "wrong counts":
            workspace.store.objects.write(key, text.replace(b'"class-0": ', b'"class-0": 99999999999'))
        case "missing shard":
            workspace.store.objects.delete(shard)
    assert run(workspace).drops == (first.id, good.id)
    assert quarantined(workspace) == [bad.id]


def test_drop_replaced_under_its_id_is_quarantined(workspace: Workspace) -> None:
    old, good = workspace.land(0, 1), workspace.land(0, 1, seed=1)
    run(workspace)
    other = workspace.land(0, 1, seed=2)
    replacement = other.model_copy(update={"id": old.id})
    workspace.store.objects.write(workspace.store.keys.manifest(old.id), replacement.to_bytes())
    assert run(workspace).drops == (good.id, other.id)
    assert "has changed since the champion was trained on it" in workspace.store.drops.quarantine_causes()[old.id]


def test_status_and_metrics_report_quarantined_drops(workspace: Workspace) -> None:
    workspace.land(0, 1)
    run(workspace)
    bad = workspace.land(0, 1, seed=1)
    workspace.store.objects.write(workspace.store.keys.manifest(bad.id), b"{}")
    state = TaskState(workspace.store)
    assert read_status(TASK, workspace.store).waiting == ()
    assert isinstance(stages.run_task(workspace.context, TASK, Request()), NoRunNeeded)
    status = read_status(TASK, workspace.store)
    assert "not a drop's manifest" in status.quarantined[bad.id]
    state.refresh()
    assert (("pets", "quarantined"), 1) in next(iter(state.metrics()))[1]


def test_quarantined_drop_is_named_until_it_is_repaired(
    workspace: Workspace, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A user who misses the quarantine would believe that the drop was used."""
    bad = workspace.land(0, 1)
    shard = workspace.store.keys.drop_file(bad.id, bad.shards[0].name)
    intact = workspace.store.objects.read(shard)[0]
    damage(workspace, bad)
    file = workspace.folder / "pets.yaml"
    file.write_text(TASK.model_copy(update={"store": workspace.store.url}).model_dump_json())
    images = str(workspace.draw(0, 1))

    def retrained(*arguments: str) -> tuple[int, str]:
        ran = retrain([*arguments, "--task", str(file)], capfd)
        return ran.code, " ".join((ran.out + ran.err).split())

    report = f"pets/drops/{bad.id}/quarantine.json"
    assert retrained("run")[0] == 0
    assert f"No run uses it until its files are corrected and {report} is deleted" in caplog.text
    named = f"no run uses the 1 drop in quarantine: {bad.id}"
    assert (
        f"nothing to do: no drop has landed yet: commit one with `retrain drop pack SRC --task {file}`; {named}"
        in (retrained("run")[1])
    )
    assert "delete" in (found := retrained("status")[1])
    assert f"{bad.id}: " in found
    assert "quarantined no run uses this drop: " in retrained("drop", "show", bad.id)[1]
    for dry_run in ((), ("--dry-run",)):
        code, told = retrained("drop", "pack", images, *dry_run)
        assert (code, f"{bad.id} was committed before and is in quarantine" in told) == (2, True)
        assert f"delete {report}, or choose another id" in told
    code, told = retrained("drop", "pack", images, "--id", "again", "--dry-run")
    assert (code, "would be committed as again" in told) == (0, True)
    workspace.store.objects.write(shard, intact)
    workspace.store.objects.delete(report)
    assert retrained("drop", "pack", images) == (0, f"{bad.id}: 2 classes, {samples(bad)} (already committed)")
    assert run(workspace).drops == (bad.id,)


def test_watcher_plans_a_new_run_for_undamaged_drops(workspace: Workspace) -> None:
    watched = TaskUnderTest(TASK.model_copy(update={"store": workspace.store.url}))
    bad, good = workspace.land(0, 1), workspace.land(0, 1, seed=1)
    damage(workspace, bad)
    watcher = watched.watcher(InProcessExecutor("cpu"))
    assert watcher.once()
    assert quarantined(workspace) == [bad.id]
    assert watcher.once()
    champion = workspace.store.champion.read().run_id
    assert champion
    assert watched.owners() == {good.id: champion}
    assert [record.outcome for record in workspace.store.ledger.read()] == ["failed", "completed"]


def test_pipeline_step_quarantines_a_damaged_drop(workspace: Workspace) -> None:
    bad, good = workspace.land(0, 1), workspace.land(0, 1, seed=1)
    damage(workspace, bad)
    task = TASK.model_copy(update={"store": workspace.store.url})
    planned = stages.plan(workspace.context, task, Request())
    assert isinstance(planned, Plan)
    claims = workspace.store.claims()
    assert claims.claim(planned)
    steps.train(json.dumps(task.model_dump(mode="json")), planned.run_id, "cpu")
    assert quarantined(workspace) == [bad.id]
    claims.refresh()
    assert not claims.claimed(good.id)
    following = stages.plan(workspace.context, task, Request())
    assert isinstance(following, Plan)
    assert [drop.id for drop in following.dataset.drops] == [good.id]


def test_damage_found_in_evaluation_counts_the_training_cost(workspace: Workspace) -> None:
    workspace.land(0, 1)
    run(workspace)
    bad = workspace.land(0, 1, seed=1)
    planned = stages.plan(workspace.context, TASK, Request())
    assert isinstance(planned, Plan)
    trained = stages.train(workspace.context, planned)
    damage(workspace, bad)
    with pytest.raises(DamagedDrop):
        stages.evaluate(workspace.context, trained)
    assert isinstance(stages.run_task(workspace.context, TASK, Request()), NoRunNeeded)
    failed = workspace.store.ledger.read()[-1]
    assert failed.savings
    assert failed.outcome == "failed"
    assert failed.savings.used > 0
