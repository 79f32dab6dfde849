"""Stores of each earlier version, and of a later version, can be continued. Unknown fields are kept."""

import json
import shutil
from pathlib import Path

import pytest
from support.terminal import retrain
from support.versions import GOLDEN, LATER, NEXT_VERSION, Golden, with_later_fields
from support.workspaces import Workspace

from retrain.config.loading import load_task
from retrain.config.task import Task
from retrain.errors import DropError, RunError
from retrain.inference.loading import Source, load_model
from retrain.pipeline import stages
from retrain.pipeline.planning import Request
from retrain.records import Drop, RunRecord
from retrain.records.base import unknown_fields
from retrain.records.drop import drop_digest, parse_manifest
from retrain.store import LocalStore


@pytest.fixture(params=GOLDEN)
def golden(request: pytest.FixtureRequest) -> Golden:
    """Return the archived store of each version, and the ids of its runs."""
    return GOLDEN[request.param]


@pytest.fixture
def task(golden: Golden, tmp_path: Path) -> Task:
    """Return the earlier version's task. Its store is unpacked into the test's temporary folder."""
    shutil.unpack_archive(golden.archive, tmp_path, filter="data")
    return load_task(str(tmp_path / "pets.yaml"), [f"store={tmp_path / 'store'}"])


@pytest.fixture
def workspace(task: Task, tmp_path: Path) -> Workspace:
    """Return the workspace of the store."""
    return Workspace(LocalStore(Path(task.store)), tmp_path / "work")


def add_later_fields(store: Path) -> None:
    """Write each record as a later version would: with an extra field at every level, and the next `schema_version`."""
    for path in store.rglob("*.json"):
        version = {} if path.name == "drop.json" else NEXT_VERSION
        path.write_text(json.dumps(with_later_fields(json.loads(path.read_text()) | version)))
    for path in store.rglob("*.jsonl"):
        lines = path.read_text().splitlines()
        path.write_text("".join(json.dumps(json.loads(line) | LATER) + "\n" for line in lines))


def finish(workspace: Workspace, task: Task, golden: Golden) -> RunRecord:
    """Finish the unfinished run, and return its record."""
    record = stages.run_task(workspace.context, task, Request())
    assert isinstance(record, RunRecord)
    assert (record.run_id, record.outcome, record.error) == (golden.unfinished, "reached", None)
    assert workspace.context.observer.stepped_to[0] == 6
    return record


def roll_back(task: Task, tmp_path: Path, capfd: pytest.CaptureFixture[str], times: int) -> None:
    """Run `retrain rollback` this number of times. One more rollback must fail."""
    line = ["rollback", "--yes", "--task", str(tmp_path / "pets.yaml"), "--set", f"store={task.store}"]
    assert [retrain(line, capfd).code for _ in range(times + 1)] == [0] * times + [2]


def test_store_of_an_earlier_version_is_continued(
    workspace: Workspace, task: Task, golden: Golden, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert [record.run_id for record in workspace.store.ledger.read()] == [golden.scratch, golden.champion]
    assert workspace.store.champion.read().run_id == golden.champion
    finish(workspace, task, golden)
    assert workspace.store.champion.read().run_id == golden.unfinished
    workspace.land(0, 1, 2, seed=4)
    following = stages.run_task(workspace.context, task, Request())
    assert isinstance(following, RunRecord)
    assert (following.parent, following.error) == (golden.unfinished, None)
    roll_back(task, tmp_path, capfd, times=3 if following.ending == "promoted" else 2)
    assert workspace.store.champion.read().run_id == golden.scratch


def test_store_of_a_later_version_is_continued(
    workspace: Workspace, task: Task, golden: Golden, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    add_later_fields(Path(task.store))
    assert "task.training.of_a_later_version" in set(unknown_fields(workspace.store.run(golden.unfinished).plan()))
    finish(workspace, task, golden)
    roll_back(task, tmp_path, capfd, times=2)
    champion = workspace.store.champion.read().champion
    assert champion is not None
    assert champion.run_id == golden.scratch
    kept = set(unknown_fields(champion))
    assert kept == {
        "schema_version",
        "of_a_later_version",
        "history.0.of_a_later_version",
        "history.1.of_a_later_version",
    }


def test_plan_with_unknown_training_settings_is_refused(workspace: Workspace, task: Task, golden: Golden) -> None:
    path = Path(task.store) / "pets" / "runs" / golden.champion / "plan.json"
    plan = json.loads(path.read_text())
    plan["task"]["training"] |= {"epochs": 7.0, "gradient_noise": 0.1}
    path.write_text(json.dumps(plan))
    with pytest.raises(RunError, match=r"by a later version .*know: task.training.gradient_noise. Upgrade retrain"):
        load_model(Source(workspace.store, frozenset()), golden.champion, "cpu")
    (path.parent / "result.json").unlink()
    with pytest.raises(RunError, match=r"task.training.gradient_noise. Upgrade retrain"):
        stages.train(workspace.context, workspace.store.run(golden.champion).plan())


def test_manifest_digest_covers_unknown_fields(workspace: Workspace) -> None:
    drop = workspace.store.drops.all()[0]
    later = Drop.model_validate(drop.model_dump() | {"licence": "CC0"})
    written = later.model_copy(update={"digest": drop_digest(later)}).to_bytes()
    assert parse_manifest(written).model_extra == {"licence": "CC0"}
    with pytest.raises(DropError, match="its digest does not match its content"):
        parse_manifest(written.replace(b"CC0", b"MIT"))


def test_task_file_still_refuses_unknown_fields(task: Task, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pets.yaml"
    path.write_text(path.read_text() + "of_a_later_version: 1\n")
    ran = retrain(["status", "--task", str(path)], capfd)
    assert ran.code == 2
    assert "unknown field 'of_a_later_version'" in ran.err
