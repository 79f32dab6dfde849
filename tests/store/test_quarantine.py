"""Drops that are damaged after their commit are quarantined with a report, and retraining continues without them."""

import json
from pathlib import Path

import pytest
from support.lives import Life, make_task
from support.watching import Place

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
def life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Life:
    monkeypatch.setenv("RETRAIN_CACHE", str(tmp_path / "cache"))
    return Life(LocalStore(tmp_path / "store"), tmp_path)


def run(life: Life) -> RunRecord:
    ended = stages.run_task(life.context, TASK, Request())
    assert isinstance(ended, RunRecord)
    return ended


def damage(life: Life, drop: Drop) -> None:
    """Flip one bit in the middle of a drop's first shard, which keeps its size, and remove the drop from the cache."""
    key = life.store.keys.drop_file(drop.id, drop.shards[0].name)
    data = bytearray(life.store.objects.read(key)[0])
    data[len(data) // 2] ^= 1
    life.store.objects.write(key, bytes(data))
    for cached in life.context.cache.glob(f"{drop.digest}-*"):
        cached.unlink()


def quarantined(life: Life) -> list[str]:
    return list(life.store.drops.quarantine_causes())


def test_run_with_a_damaged_new_drop_uses_the_others(life: Life) -> None:
    first = life.land(0, 1)
    run(life)
    bad, good = life.land(0, 1, seed=1), life.land(0, 1, seed=2)
    damage(life, bad)
    ended = run(life)
    assert (ended.drops, ended.new_drops) == ((first.id, good.id), (good.id,))
    assert life.store.champion.read().run_id == ended.run_id
    assert quarantined(life) == [bad.id]
    assert f"{bad.id}/{bad.shards[0].name}" in life.store.drops.quarantine_causes()[bad.id]
    outcomes = [(record.outcome, bad.id in record.new_drops) for record in life.store.ledger.read()]
    assert outcomes == [("completed", False), ("failed", True), ("reached", False)]


def test_damaged_old_drop_keeps_the_champions_class_order(life: Life) -> None:
    bad, kept = life.land(0, 1), life.land(2, 1, seed=1)
    first = run(life)
    life.land(0, 2, seed=2)
    damage(life, bad)
    ended = run(life)
    assert ended.parent == first.run_id
    assert ended.drops[:1] == (kept.id,)
    plan = life.context.files(ended.run_id).plan()
    assert plan.dataset.classes == life.context.files(first.run_id).plan().dataset.classes
    assert (plan.known, plan.dataset.classes) == (1, ("class-0", "class-1", "class-2"))
    assert ended.evaluation
    assert ended.evaluation.accuracy > 0.8


def test_class_whose_only_drop_is_damaged_keeps_its_output(life: Life) -> None:
    bad = life.land(0)
    run(life)
    life.land(1, 2, seed=1)
    run(life)
    life.land(1, 2, seed=2)
    damage(life, bad)
    ended = run(life)
    assert life.context.files(ended.run_id).plan().dataset.classes == ("class-0", "class-1", "class-2")
    assert ended.evaluation
    assert ended.evaluation.by_class.keys() == {"class-1", "class-2"}


@pytest.mark.parametrize("harm", ["truncated manifest", "another task's manifest", "wrong counts", "missing shard"])
def test_damaged_manifest_or_shard_harms_only_its_drop(life: Life, harm: str) -> None:
    first = life.land(0, 1)
    run(life)
    bad, good = life.land(0, 1, seed=1), life.land(0, 1, seed=2)
    key = life.store.keys.manifest(bad.id)
    text = life.store.objects.read(key)[0]
    shard = life.store.keys.drop_file(bad.id, bad.shards[0].name)
    match harm:
        case "truncated manifest":
            life.store.objects.write(key, text[: len(text) // 2])
        case "another task's manifest":
            life.store.objects.write(key, text.replace(b'"task": "pets"', b'"task": "cars"'))
        case "wrong counts":
            life.store.objects.write(key, text.replace(b'"class-0": ', b'"class-0": 99999999999'))
        case "missing shard":
            life.store.objects.delete(shard)
    assert run(life).drops == (first.id, good.id)
    assert quarantined(life) == [bad.id]


def test_drop_replaced_under_its_id_is_quarantined(life: Life) -> None:
    old, kept = life.land(0, 1), life.land(0, 1, seed=1)
    run(life)
    other = life.land(0, 1, seed=2)
    replacement = other.model_copy(update={"id": old.id})
    life.store.objects.write(life.store.keys.manifest(old.id), replacement.to_bytes())
    assert run(life).drops == (kept.id, other.id)
    assert "has changed since the champion was trained on it" in life.store.drops.quarantine_causes()[old.id]


def test_status_and_metrics_show_quarantine(life: Life) -> None:
    life.land(0, 1)
    run(life)
    bad = life.land(0, 1, seed=1)
    life.store.objects.write(life.store.keys.manifest(bad.id), b"{}")
    state = TaskState(life.store)
    assert read_status(TASK, life.store).waiting == ()
    assert isinstance(stages.run_task(life.context, TASK, Request()), NoRunNeeded)
    status = read_status(TASK, life.store)
    assert "not a drop's manifest" in status.quarantined[bad.id]
    state.refresh()
    assert (("pets", "quarantined"), 1) in next(iter(state.figures()))[1]


def test_watcher_plans_a_new_run_for_undamaged_drops(life: Life) -> None:
    place = Place(TASK.model_copy(update={"store": life.store.url}))
    bad, good = life.land(0, 1), life.land(0, 1, seed=1)
    damage(life, bad)
    watcher = place.watcher(InProcessExecutor("cpu"))
    assert watcher.once()
    assert quarantined(life) == [bad.id]
    assert watcher.once()
    champion = life.store.champion.read().run_id
    assert champion
    assert place.owners() == {good.id: champion}
    assert [record.outcome for record in life.store.ledger.read()] == ["failed", "completed"]


def test_pipeline_step_quarantines_a_damaged_drop(life: Life) -> None:
    bad, good = life.land(0, 1), life.land(0, 1, seed=1)
    damage(life, bad)
    task = TASK.model_copy(update={"store": life.store.url})
    planned = stages.plan(life.context, task, Request())
    assert isinstance(planned, Plan)
    claims = life.store.claims()
    assert claims.claim(planned)
    steps.train(json.dumps(task.model_dump(mode="json")), planned.run_id, "cpu")
    assert quarantined(life) == [bad.id]
    claims.refresh()
    assert not claims.claimed(good.id)
    following = stages.plan(life.context, task, Request())
    assert isinstance(following, Plan)
    assert [drop.id for drop in following.dataset.drops] == [good.id]


def test_damage_found_in_evaluation_charges_the_training(life: Life) -> None:
    life.land(0, 1)
    run(life)
    bad = life.land(0, 1, seed=1)
    planned = stages.plan(life.context, TASK, Request())
    assert isinstance(planned, Plan)
    trained = stages.train(life.context, planned)
    damage(life, bad)
    with pytest.raises(DamagedDrop):
        stages.evaluate(life.context, trained)
    assert isinstance(stages.run_task(life.context, TASK, Request()), NoRunNeeded)
    failed = life.store.ledger.read()[-1]
    assert failed.savings
    assert failed.outcome == "failed"
    assert failed.savings.used > 0
