"""The pipeline from drop to champion, on stores in a folder and in S3, and under interruptions."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.workspaces import TASK, Workspace, champion, make_task, plan, records, run

from retrain.errors import ModelError
from retrain.pipeline import stages
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.records import RunRecord
from retrain.records.ledger import total_savings
from retrain.store import LocalStore, ObjectStore


@pytest.fixture
def workspace(store: ObjectStore, tmp_path: Path) -> Workspace:
    """Return an empty task on each kind of store."""
    return Workspace(store, tmp_path / "work")


@pytest.fixture
def local(tmp_path: Path) -> Workspace:
    """Return an empty task in a folder."""
    return Workspace(LocalStore(tmp_path / "store"), tmp_path / "work")


def timeless(record: RunRecord) -> dict[str, object]:
    """Return a record without the fields that differ between any two runs."""
    seconds = {"device_seconds", "device_seconds_all_in"}
    times = {"started_at", "ended_at"}
    return record.model_dump(
        exclude=dict.fromkeys(times | {"stage_seconds"}, True)
        | {"result": {"cost": seconds} | dict.fromkeys(times, True)}
    )


def test_first_drop_is_trained_from_scratch_and_promoted(workspace: Workspace) -> None:
    workspace.land(0, 1, 2)
    first = run(workspace)
    assert (first.method, first.outcome, champion(workspace)) == ("scratch", "completed", first.run_id)
    assert first.evaluation
    assert (first.evaluation.old, first.evaluation.comparison) == (None, None)
    assert first.evaluation.new == first.evaluation.accuracy > 0.8
    assert records(workspace) == [first]


def test_first_run_that_learns_nothing_logs_a_warning(local: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    local.land(0, 1, seed=1)
    idle = {**TASK.training.model_dump(), "optimizer": {"name": "adam", "learning_rate": 1e-12}}
    run(local, task=make_task(training=idle))
    assert "no better than always predicting the most common class" in caplog.text
    assert "learnt almost nothing. Check the labels, or train longer: set training.epochs to" in caplog.text


def test_network_that_cannot_be_built_is_refused_when_planning(local: Workspace) -> None:
    """Check a first run, and a run whose parent has another network."""
    local.land(0, 1)
    broken = make_task(model={"name": "mlp", "options": {"depth": 3}})
    with pytest.raises(ModelError, match="depth"):
        plan(local, broken)
    first = run(local)
    local.land(2, seed=1)
    with pytest.raises(ModelError, match="depth"):
        plan(local, broken, Request("naive", "trial"))
    assert [entry.name for entry in Path(local.store.objects.url, "pets", "runs").iterdir()] == [first.run_id]


def test_run_on_next_drop_reaches_target_sooner_than_scratch(workspace: Workspace) -> None:
    workspace.land(0, 1, 2)
    first = run(workspace)
    workspace.land(0, 1, 2, seed=1)
    second = run(workspace)
    assert (second.method, second.outcome, second.parent, champion(workspace)) == (
        "continuous",
        "reached",
        first.run_id,
        second.run_id,
    )
    assert first.result
    assert second.result
    assert second.target
    assert second.savings
    assert (second.target.provenance, second.target.accuracy) == ("carried", first.result.final_accuracy)
    assert second.result.final_accuracy >= second.target.accuracy
    assert second.scratch
    assert second.savings.gross == round(second.scratch.iterations) - second.result.iterations > 0
    assert second.evaluation
    assert second.evaluation.comparison
    assert second.evaluation.comparison.champion == first.run_id
    assert None not in (second.evaluation.old, second.evaluation.new)
    assert records(workspace) == [first, second]


def test_missed_target_escalates_and_every_run_is_a_cost(workspace: Workspace) -> None:
    workspace.land(0, 1, 2)
    first = run(workspace)
    workspace.land(0, 1, 2, seed=1, mislabelled=True)
    last = run(workspace, make_task(gate={"margin": 1.0}))
    later = records(workspace)[1:]
    assert [(record.method, record.scale, record.outcome, record.attempt) for record in later] == [
        ("continuous", 0.5, "missed", 0),
        ("continuous", 1.0, "missed", 1),
        ("scratch", 1.0, "completed", 2),
    ]
    assert later[-1] == last
    assert champion(workspace) == last.run_id
    assert all(record.parent == first.run_id and record.decision is None for record in later[:2])
    used = [record.result.iterations for record in later if record.result]
    assert total_savings(later).gross == -used[0] - used[1]
    assert total_savings(later).used == sum(used)


def test_refused_candidate_keeps_its_reason_and_is_not_retrained(workspace: Workspace) -> None:
    workspace.land(0, 1, 2)
    first = run(workspace)
    workspace.land(0, 1, 2, seed=1, mislabelled=True)
    strict = make_task(gate={"margin": 0.0, "min_accuracy": 0.9})
    refused = run(workspace, strict)
    assert refused.decision
    assert not refused.decision.promoted
    assert any("below gate.min_accuracy 0.9" in reason for reason in refused.decision.reasons)
    assert champion(workspace) == first.run_id
    assert workspace.context.files(refused.run_id).weights()
    before = workspace.contents()
    nothing = stages.run_task(workspace.context, strict, Request())
    assert isinstance(nothing, NoRunNeeded)
    assert f"{refused.run_id} was trained on these drops and refused" in nothing.reason
    assert workspace.contents() == before


def test_run_without_new_drops_changes_nothing(workspace: Workspace) -> None:
    assert isinstance(stages.run_task(workspace.context, TASK, Request()), NoRunNeeded)
    workspace.land(0, 1)
    run(workspace)
    before = workspace.contents()
    assert isinstance(stages.run_task(workspace.context, TASK, Request()), NoRunNeeded)
    assert workspace.contents() == before


def test_every_stage_called_again_changes_nothing(workspace: Workspace) -> None:
    workspace.land(0, 1, 2)
    run(workspace)
    workspace.land(0, 1, 2, seed=1, mislabelled=True)
    planned = plan(workspace)
    final = stages.train(workspace.context, planned)
    done = [stage(workspace.context, final) for stage in (stages.evaluate, stages.promote, stages.record)]
    kept = workspace.contents()
    assert stages.train(workspace.context, planned) == final
    assert [stage(workspace.context, final) for stage in (stages.evaluate, stages.promote, stages.record)] == done
    assert workspace.contents() == kept


Stage = Callable[..., object]


@pytest.mark.parametrize("done", range(5))
@pytest.mark.parametrize("mislabelled", [False, True])
def test_next_run_completes_after_a_crash_between_stages(tmp_path: Path, done: int, mislabelled: bool) -> None:
    workspaces = [Workspace(LocalStore(tmp_path / name), tmp_path / f"{name}-work") for name in ("complete", "crashed")]
    for workspace in workspaces:
        workspace.land(0, 1)
        run(workspace)
        workspace.land(0, 1, seed=1, mislabelled=mislabelled)
    complete, crashed = workspaces
    run(complete)
    final = plan(crashed)
    if done >= 1:
        final = stages.train(crashed.context, final)
    for stage in (stages.evaluate, stages.promote, stages.record)[: max(0, done - 1)]:
        stage(crashed.context, final)
    stages.run_task(crashed.context, TASK, Request())
    assert [timeless(record) for record in records(crashed)] == [timeless(record) for record in records(complete)]
    assert champion(crashed) == champion(complete)
    assert set(crashed.contents()) == set(complete.contents())


def test_crash_after_the_champion_swap_completes_later(local: Workspace) -> None:
    local.land(0, 1)
    planned = plan(local)
    stages.evaluate(local.context, stages.train(local.context, planned))
    local.store.champion.swap(local.store.champion.read(), planned.run_id, "promoted")
    assert isinstance(stages.run_task(local.context, TASK, Request()), NoRunNeeded)
    [record] = records(local)
    assert record.decision
    assert (record.run_id, record.decision.promoted) == (planned.run_id, True)
    seen = local.store.champion.read()
    assert seen.champion
    assert len(seen.champion.history) == 1


def test_promoted_run_gets_its_record_before_the_next_drop(local: Workspace) -> None:
    local.land(0, 1)
    first = stages.train(local.context, plan(local))
    stages.promote(local.context, first)
    local.land(0, 1, seed=1)
    second = run(local)
    assert (second.method, second.parent) == ("continuous", first.run_id)
    assert [record.run_id for record in records(local)] == [first.run_id, second.run_id]


def test_later_candidate_is_compared_with_the_promoted_one(workspace: Workspace) -> None:
    workspace.land(0, 1, 2)
    first = run(workspace)
    workspace.land(0, 1, 2, seed=1)
    later, earlier = (plan(workspace, request=Request(method)) for method in ("continuous", "naive"))
    for candidate in (later, earlier):
        stages.train(workspace.context, candidate)
        evaluation = stages.evaluate(workspace.context, candidate)
        assert evaluation
        assert evaluation.comparison
        assert evaluation.comparison.champion == first.run_id
    stages.promote(workspace.context, earlier)
    stages.promote(workspace.context, later)
    record = stages.record(workspace.context, later)
    assert record.evaluation
    assert record.evaluation.comparison
    assert record.evaluation.comparison.champion == earlier.run_id
    assert champion(workspace) == later.run_id


def test_record_compares_with_the_champion_that_was_replaced(workspace: Workspace) -> None:
    workspace.land(0, 1, 2)
    run(workspace)
    workspace.land(0, 1, 2, seed=1)
    later, earlier = (plan(workspace, request=Request(method)) for method in ("continuous", "naive"))
    for candidate in (later, earlier):
        stages.train(workspace.context, candidate)
    late = stages.evaluate(workspace.context, later)
    assert late
    stages.promote(workspace.context, earlier)
    stages.promote(workspace.context, later)
    workspace.context.files(later.run_id).write_evaluation(late)
    record = stages.record(workspace.context, later)
    assert record.evaluation
    assert record.evaluation.comparison
    assert record.evaluation.comparison.champion == earlier.run_id


class Overtaken(LocalStore):
    """A store that promotes another candidate right before the first swap of the champion."""

    rival: Callable[[], object] | None = None

    def replace(self, key: str, data: bytes, version: str) -> str:
        rival, self.rival = self.rival, None
        if rival and key.endswith("champion.json"):
            rival()
        return super().replace(key, data, version)


def test_candidate_is_judged_again_after_another_promotion(tmp_path: Path) -> None:
    store = Overtaken(tmp_path / "store")
    workspace = Workspace(store, tmp_path / "work")
    workspace.land(0, 1, 2)
    run(workspace, make_task(training={**TASK.training.model_dump(), "epochs": 0.1}))  # easily beaten
    workspace.land(0, 1, 2, seed=1)
    worse = plan(workspace, make_task(training={**TASK.training.model_dump(), "epochs": 1}, gate={"margin": 0.1}))
    better = plan(workspace)
    for candidate in (worse, better):
        stages.train(workspace.context, candidate)
    store.rival = lambda: stages.promote(workspace.context, better)
    decision = stages.promote(workspace.context, worse)
    assert decision
    assert not decision.promoted
    assert f"worse than the champion {better.run_id}" in decision.reasons[0]
    assert champion(workspace) == better.run_id
    seen = workspace.store.champion.read()
    assert seen.champion
    assert worse.run_id not in [entry.run_id for entry in seen.champion.history]


def test_evaluation_is_unchanged_after_a_rollback(local: Workspace) -> None:
    local.land(0, 1)
    first = run(local)
    local.land(0, 1, seed=1)
    second = plan(local)
    stages.promote(local.context, stages.train(local.context, second))
    evaluation = stages.evaluate(local.context, second)
    local.store.champion.promote_manually(local.store.champion.read(), first.run_id, "rolled back")
    assert stages.evaluate(local.context, second) == evaluation
    assert stages.record(local.context, second).evaluation == evaluation


def test_non_finite_loss_is_recorded_and_the_champion_stays(workspace: Workspace) -> None:
    workspace.land(0, 1)
    first = run(workspace)
    workspace.land(0, 1, seed=1)
    optimizer = {"name": "sgd", "learning_rate": 1e38}
    exploding = make_task(training={**TASK.training.model_dump(), "optimizer": optimizer})
    diverged = run(workspace, exploding)
    assert (diverged.outcome, diverged.evaluation, diverged.decision) == ("diverged", None, None)
    assert diverged.result
    assert diverged.result.model_digest is None
    assert diverged.savings
    assert diverged.savings.gross == -diverged.result.iterations
    assert champion(workspace) == first.run_id


@pytest.mark.parametrize(
    "request_", [Request(purpose="calibrate"), Request("naive", "trial")], ids=["calibrate", "trial"]
)
def test_trials_and_calibrations_are_never_promoted(workspace: Workspace, request_: Request) -> None:
    workspace.land(0, 1)
    first = run(workspace)
    workspace.land(0, 1, seed=1)
    measured = run(workspace, request=request_)
    assert measured.evaluation
    assert measured.evaluation.comparison
    assert measured.decision is None
    assert champion(workspace) == first.run_id
    assert run(workspace).decision


def test_calibrated_baseline_gives_a_measured_target(local: Workspace) -> None:
    local.land(0, 1)
    run(local)
    local.land(2, 3, seed=1)
    calibrated = run(local, request=Request(purpose="calibrate"))
    target = plan(local).target
    assert calibrated.result
    assert target
    assert (target.baseline_run, target.provenance, target.age) == (calibrated.run_id, "measured", 0)
    assert target.accuracy == calibrated.result.final_accuracy


def test_baseline_of_different_work_is_ignored(local: Workspace) -> None:
    local.land(0, 1)
    first = run(local)
    local.land(0, 1, seed=1)
    other = make_task(training={**TASK.training.model_dump(), "batch_size": 8})
    run(local, other, Request(purpose="calibrate"))
    planned = plan(local)
    assert planned.target
    assert (planned.method, planned.target.baseline_run) == ("continuous", first.run_id)
    assert plan(local, make_task(training={**TASK.training.model_dump(), "batch_size": 4})).method == "scratch"
