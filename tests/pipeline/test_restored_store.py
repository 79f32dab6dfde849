"""A copy of a store, made while a run ended, continues as docs/operations.md describes."""

import shutil
from pathlib import Path

import pytest
from support.terminal import retrain
from support.watching import LOCAL_TASK, TaskUnderTest

from retrain.config.loading import load_task


def test_copy_with_the_champion_first_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETRAIN_CACHE", str(tmp_path / "cache"))
    Path("pets.yaml").write_text(LOCAL_TASK)

    def run(*arguments: str) -> None:
        ended = retrain([*arguments, "--task", "pets.yaml"], capsys)
        assert ended.code == 0, ended.err

    task = TaskUnderTest(load_task("pets.yaml"))
    task.land(tmp_path / "in", "week-1")
    run("run", "--method", "scratch")
    first = task.store.champion.read().run_id
    Path("copy/pets").mkdir(parents=True)
    shutil.copyfile("store/pets/champion.json", "copy/pets/champion.json")
    task.land(tmp_path / "in", "week-2")
    run("run", "--method", "scratch")
    second = task.store.champion.read().run_id
    assert second != first
    ignored = shutil.ignore_patterns("champion.json")  # new times of modification, as in a restored bucket
    shutil.copytree("store", "copy", dirs_exist_ok=True, ignore=ignored, copy_function=shutil.copyfile)
    shutil.rmtree("store")
    Path("copy").rename("store")

    assert task.store.champion.read().run_id == first
    assert {record.run_id for record in task.store.ledger.read()} == {first, second}
    run("promote", str(second), "--yes")
    task.land(tmp_path / "in", "week-3")
    run("run", "--method", "scratch")
    newest = task.store.ledger.read()[-1]
    assert newest.drops == ("week-1", "week-2", "week-3")
    assert newest.outcome == "completed"
    run("rollback", "--yes")
