"""Manual approval: a candidate that passed the gate waits for a verdict by a person or by the time limit."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.terminal import Ran, at_terminal, retrain
from support.watching import EAGER
from support.workspaces import Workspace, make_task

from retrain.errors import RunError, UserError
from retrain.kubeflow.submission import KubeflowExecutor
from retrain.monitoring.exporter import Exporter, WatchedTask
from retrain.pipeline import recording, stages
from retrain.pipeline.executor import InProcessExecutor
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.pipeline.record_context import RecordContext
from retrain.pipeline.recording import finish_approval
from retrain.pipeline.status import read_status
from retrain.records import Approval, RunRecord, Verdict
from retrain.store import LocalStore
from retrain.watcher.health import Health
from retrain.watcher.task_watch import TaskWatch

MANUAL = {"margin": 0.2, "approval": "manual", "approval_timeout": "2d"}
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def at(workspace: Workspace, now: datetime) -> Workspace:
    workspace.context = replace(workspace.context, clock=lambda: now)
    return workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Return a task with a champion that needed no manual approval, and with a second drop."""
    workspace = at(Workspace(LocalStore(tmp_path / "store"), tmp_path / "work"), NOW)
    workspace.land(0, 1)
    assert isinstance(stages.run_task(workspace.context, make_task(), Request()), RunRecord)
    workspace.land(0, 1, seed=1)
    return workspace


@pytest.fixture
def waiting(workspace: Workspace) -> Approval:
    """Return the approval that the second drop's candidate waits for."""
    ended = stages.run_task(workspace.context, make_task(gate=MANUAL), Request())
    assert isinstance(ended, Approval)
    return ended


@pytest.fixture
def command(
    workspace: Workspace, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ran]:
    """Return a function that runs a command on the task."""
    settings = make_task(store=str(tmp_path / "store"), gate=MANUAL).model_dump()
    (tmp_path / "pets.json").write_text(json.dumps(settings))
    monkeypatch.setenv("RETRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RETRAIN_AUTHOR", "ann")
    return lambda *arguments: retrain((*arguments, "-t", str(tmp_path / "pets.json")), capfd)


def approve(workspace: Workspace, run_id: str, kind: str = "approved") -> None:
    verdict = Verdict.model_validate({"kind": kind, "author": "ann", "reason": "looked at it", "at": NOW})
    workspace.store.approvals.decide(run_id, verdict)


def champion(workspace: Workspace) -> str | None:
    return workspace.store.champion.read().run_id


def test_candidate_waits_and_the_champion_stays(workspace: Workspace, waiting: Approval) -> None:
    assert champion(workspace) != waiting.run_id
    assert workspace.store.ledger.find(waiting.run_id) is None
    assert waiting.expires_at - waiting.requested_at == timedelta(days=2)
    nothing = stages.run_task(workspace.context, make_task(gate=MANUAL), Request())
    assert isinstance(nothing, NoRunNeeded)
    assert f"retrain approve {waiting.run_id}" in nothing.reason
    assert read_status(make_task(gate=MANUAL), workspace.store).awaiting == (waiting,)


def test_approved_candidate_is_promoted_recorded_and_credited(workspace: Workspace, waiting: Approval) -> None:
    approve(workspace, waiting.run_id)
    ended = stages.finish_approval(workspace.context, waiting.run_id)
    assert isinstance(ended, RunRecord)
    assert ended.decision
    assert ended.decision.promoted
    assert ended.savings
    assert ended.savings.baseline > 0
    seen = workspace.store.champion.read().champion
    assert seen
    last = seen.history[-1]
    assert (last.run_id, last.why, last.author, last.reason) == (waiting.run_id, "approved", "ann", "looked at it")
    assert workspace.store.approvals.unfinished() == []


def test_rejected_candidate_is_refused_without_a_saving(workspace: Workspace, waiting: Approval) -> None:
    approve(workspace, waiting.run_id, "rejected")
    ended = stages.finish_approval(workspace.context, waiting.run_id)
    assert isinstance(ended, RunRecord)
    assert ended.decision
    assert ended.decision.reasons == ("rejected by ann: looked at it",)
    assert ended.savings
    assert ended.savings.baseline == 0
    assert champion(workspace) != waiting.run_id
    planned = stages.run_task(workspace.context, make_task(gate=MANUAL), Request())
    assert isinstance(planned, NoRunNeeded)
    assert "was trained on these drops and refused (rejected by ann: looked at it)" in planned.reason


def test_interrupted_verdict_is_completed_by_the_next_run(workspace: Workspace, waiting: Approval) -> None:
    approve(workspace, waiting.run_id)
    assert isinstance(stages.run_task(workspace.context, make_task(gate=MANUAL), Request()), NoRunNeeded)
    assert champion(workspace) == waiting.run_id
    assert workspace.store.ledger.find(waiting.run_id)


def test_candidate_is_refused_when_the_time_limit_ends(workspace: Workspace, waiting: Approval) -> None:
    at(workspace, waiting.expires_at - timedelta(seconds=1))
    assert stages.finish_approval(workspace.context, waiting.run_id) == waiting
    at(workspace, waiting.expires_at)
    ended = stages.finish_approval(workspace.context, waiting.run_id)
    assert isinstance(ended, RunRecord)
    assert ended.decision
    assert ended.decision.reasons == ("no approval came before 2026-05-03 12:00 UTC (gate.approval_timeout)",)
    with pytest.raises(RunError, match="was already decided on 2026-05-03 12:00 UTC: no approval came"):
        approve(workspace, waiting.run_id)


def test_status_after_the_time_limit_asks_for_no_verdict(
    workspace: Workspace, waiting: Approval, command: Callable[..., Ran]
) -> None:
    """`retrain status` writes nothing, so the store has no record of the missing verdict yet."""
    expired = (
        f"{waiting.run_id} passed the gate; no approval came before 2026-05-03 12:00 UTC (gate.approval_timeout); "
        "the watcher, or `retrain run --task pets`, records the verdict"
    )
    task = make_task(gate=MANUAL, trigger={"min_samples": 1})
    assert read_status(task, workspace.store, lambda: waiting.expires_at).trigger == expired
    earlier = read_status(task, workspace.store, lambda: waiting.requested_at).trigger
    assert earlier == waiting.describe("pets", waiting.requested_at)
    assert f"`retrain approve {waiting.run_id} --task pets`" in earlier
    status = command("status", "--set", "trigger.min_samples=1")
    for shown in (status, command("show", waiting.run_id)):
        words = " ".join(shown.out.split())
        assert words.count("no approval came before") == 1
        assert "retrain approve" not in words


def test_first_of_two_verdicts_counts(workspace: Workspace, waiting: Approval) -> None:
    approve(workspace, waiting.run_id, "rejected")
    with pytest.raises(RunError, match="rejected by ann"):
        approve(workspace, waiting.run_id)


def test_approved_candidate_is_compared_with_a_newer_champion(workspace: Workspace, waiting: Approval) -> None:
    """Another run was promoted while the candidate waited, so the candidate must be compared again."""
    workspace.land(0, 1, seed=2)
    newer = stages.run_task(workspace.context, make_task(gate={"margin": 0.2}), Request())
    assert isinstance(newer, RunRecord)
    assert champion(workspace) == newer.run_id
    approve(workspace, waiting.run_id)
    ended = stages.finish_approval(workspace.context, waiting.run_id)
    assert isinstance(ended, RunRecord)
    assert ended.evaluation
    assert ended.evaluation.comparison
    assert ended.evaluation.comparison.champion == newer.run_id


def test_watcher_trains_on_later_drops_after_the_verdict(workspace: Workspace, tmp_path: Path) -> None:
    task = make_task(store=str(tmp_path / "store"), gate=MANUAL)
    watch = TaskWatch(task, InProcessExecutor("cpu"), Health([task.name]), EAGER)
    watch.check_drops()
    watch.advance()
    [approval] = workspace.store.approvals.unfinished()
    workspace.land(0, 1, seed=2)
    watch.check_drops()
    watch.advance()
    assert [one.run_id for one in workspace.store.approvals.unfinished()] == [approval.run_id]
    assert len(workspace.store.ledger.read()) == 1
    approve(workspace, approval.run_id)
    watch.advance()
    assert champion(workspace) == approval.run_id
    watch.advance()
    [second] = workspace.store.approvals.unfinished()
    assert workspace.store.run(second.run_id).plan().parent == approval.run_id


def test_verdict_is_executed_without_torch(workspace: Workspace, waiting: Approval) -> None:
    """Without torch, the watcher cannot evaluate a model.

    If the champion has not changed, the watcher uses the evaluation by the training pod.
    """
    approve(workspace, waiting.run_id)
    ended = finish_approval(RecordContext(workspace.store), waiting.run_id)
    assert (ended.run_id, champion(workspace)) == (waiting.run_id, waiting.run_id)


def test_newer_champion_needs_an_evaluation_with_torch(
    workspace: Workspace, waiting: Approval, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.land(0, 1, seed=2)
    newer = stages.run_task(workspace.context, make_task(gate={"margin": 0.2}), Request())
    approve(workspace, waiting.run_id)
    with monkeypatch.context() as without:
        without.setattr(recording, "has_torch", lambda: False)
        with pytest.raises(
            UserError,
            match=r"must be compared with champion .* but torch is not installed: run `retrain run`",
        ):
            finish_approval(RecordContext(workspace.store), waiting.run_id)
    assert champion(workspace) == newer.run_id
    finish_approval(RecordContext(workspace.store), waiting.run_id)
    assert workspace.store.ledger.find(waiting.run_id)


def test_kubeflow_is_not_asked_about_a_run_that_waits(workspace: Workspace, waiting: Approval, tmp_path: Path) -> None:
    task = make_task(store=str(tmp_path / "store"), gate=MANUAL)
    plan = workspace.store.run(waiting.run_id).plan()

    def build(task: object) -> None:
        raise AssertionError("submitted")

    early, late = (KubeflowExecutor(build, lambda now=now: now) for now in (NOW, waiting.expires_at))  # type: ignore[misc]
    assert not early.ensure(task, plan, workspace.store)
    assert workspace.store.ledger.find(waiting.run_id) is None
    assert not late.ensure(task, plan, workspace.store)
    record = workspace.store.ledger.find(waiting.run_id)
    assert record
    assert record.ending == "refused"


def test_exporter_serves_the_time_of_an_approval_request(workspace: Workspace, waiting: Approval) -> None:
    def since() -> list[float]:
        exporter = Exporter([WatchedTask(workspace.store)])
        exporter.refresh()
        name = "retrain_awaiting_approval_timestamp_seconds"
        return [sample.value for family in exporter.collect() for sample in family.samples if sample.name == name]

    assert since() == [NOW.timestamp()]
    approve(workspace, waiting.run_id)
    stages.finish_approval(workspace.context, waiting.run_id)
    assert since() == []


def test_commands_approve_a_candidate_and_roll_it_back(
    workspace: Workspace, command: Callable[..., Ran], tmp_path: Path
) -> None:
    first = champion(workspace)
    ran = command("run")
    assert (ran.code, ran.err.count("Traceback")) == (3, 0)
    [approval] = workspace.store.approvals.unfinished()
    words = " ".join(ran.out.split())
    [approve_it, reject_it] = re.findall("`retrain ([^`]+)`", words)
    given = str(tmp_path / "pets.json")
    assert approve_it.split() == ["approve", approval.run_id, "--task", given]
    assert reject_it.split() == ["reject", approval.run_id, "--task", given, "--reason", "WHY"]
    again = command("run")
    assert (again.code, "awaits approval" in again.out) == (3, True)
    assert (command("run", "--json").code, command("run", "--dry-run").code) == (3, 0)
    assert "awaits approval" in command("status").out
    assert f"--task{given}" in "".join(command("status").out.split()), (
        "spaces are removed, because a narrow terminal breaks the path"
    )
    shown = " ".join(command("show", approval.run_id).out.split())
    assert "against the champion" in shown
    assert f" gate {approval.run_id} passed the gate and awaits approval until" in shown
    [waiting] = re.findall("saved if approved (.*?) net", shown)
    refused = command("promote", approval.run_id)
    assert refused.code == 2
    assert "or pass --force to promote the run without approval" in refused.err
    approved = command("approve", approval.run_id, "--reason", "fine")
    assert (approved.code, approved.out) == (0, f"{approval.run_id} is promoted\n")
    assert f" saved {waiting} net" in " ".join(command("show", approval.run_id).out.split())
    again = command("approve", approval.run_id)
    assert again.code == 2
    assert "was already decided on" in again.err
    assert command("rollback", "--reason", "wrong cats").code == 0
    history = workspace.store.champion.read().champion
    assert history
    assert history.run_id == first
    assert [(entry.author, entry.reason) for entry in history.history] == [
        (None, None),
        ("ann", "fine"),
        ("ann", "wrong cats"),
    ]


def test_command_reject_needs_a_reason(workspace: Workspace, command: Callable[..., Ran]) -> None:
    command("run")
    [approval] = workspace.store.approvals.unfinished()
    assert "--reason" in command("reject", approval.run_id).err
    ran = command("reject", approval.run_id, "--reason", "cats are dogs")
    assert (ran.code, ran.out) == (0, f"{approval.run_id} is refused; rejected by ann: cats are dogs\n")
    unknown = command("approve", "continuous-nothing")
    assert unknown.code == 2
    assert "does not await approval" in unknown.err


def test_untested_run_becomes_champion_only_by_force(
    workspace: Workspace, waiting: Approval, command: Callable[..., Ran]
) -> None:
    workspace.store.objects.delete(f"pets/runs/{waiting.run_id}/evaluation.json")
    refused = command("promote", waiting.run_id)
    assert refused.code == 2
    assert "was never tested on the test split; pass --force" in refused.err
    assert champion(workspace) != waiting.run_id
    first = champion(workspace)
    assert command("promote", waiting.run_id, "--force").code == 0
    assert champion(workspace) == waiting.run_id
    assert command("promote", first).code == 0
    refused = command("rollback")
    assert refused.code == 2
    assert f"{waiting.run_id} was never tested on the test split; pass --force to roll back to it" in refused.err
    assert champion(workspace) == first
    assert command("rollback", "--force").code == 0
    assert champion(workspace) == waiting.run_id


def test_rollback_asks_for_confirmation_at_a_terminal(
    workspace: Workspace, command: Callable[..., Ran], tmp_path: Path
) -> None:
    second = stages.run_task(workspace.context, make_task(), Request())
    assert isinstance(second, RunRecord)
    task = ("-t", str(tmp_path / "pets.json"))
    asked = at_terminal(100, "rollback", *task, typed="n\n", code=1)
    assert "in place of continuous-" in " ".join(asked)
    assert champion(workspace) == second.run_id
    at_terminal(100, "rollback", *task, "--yes")
    assert champion(workspace) == second.parent


def test_promote_asks_for_confirmation_at_a_terminal(
    workspace: Workspace, command: Callable[..., Ran], tmp_path: Path
) -> None:
    first = champion(workspace)
    second = stages.run_task(workspace.context, make_task(), Request())
    assert isinstance(second, RunRecord)
    promote = ("promote", first, "-t", str(tmp_path / "pets.json"))
    asked = " ".join(at_terminal(300, *promote, typed="n\n", code=1))
    assert f"Promote {first} to champion of pets, in place of {second.run_id}?" in asked
    assert champion(workspace) == second.run_id
    at_terminal(300, *promote, typed="y\n")
    assert champion(workspace) == first
