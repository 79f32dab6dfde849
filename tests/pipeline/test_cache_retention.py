"""`retrain gc` removes unneeded files of this machine's cache, and does not disturb processes that read the cache."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread

import pytest
import torch
from support.streams import TASK as STREAMED
from support.streams import two_drops
from support.terminal import retrain
from support.trainings import SIZE, RecordingObserver
from support.workspaces import Workspace, make_task

from retrain.config.task import Task
from retrain.data.cache import load_decoded
from retrain.data.local_cache import CacheHold
from retrain.pipeline import cache_retention, stages
from retrain.pipeline.planning import Request
from retrain.records import Plan, Retention, RunRecord
from retrain.store import LocalStore
from retrain.store.task_store import TaskStore
from retrain.training.progress import Progress
from retrain.utils.clock import utc_now

TASK = make_task(gate={"margin": 1.0})
MONTH = timedelta(days=30)
TESTS = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
"""PYTHONPATH with which another process finds the tests' helpers."""
READER = """
import sys
from pathlib import Path
import torch
from support.streams import SETTING, streaming
from retrain.store import LocalStore

store, cache = map(Path, sys.argv[1:])
samples = streaming(LocalStore(store), cache, SETTING.model_copy(update={"cache": "2Mi"}))["val"]
print("loaded", flush=True)
sys.stdin.readline()
print(int(samples.pixels(torch.arange(20)).sum()), flush=True)
"""
"""A program that loads a streamed dataset, and reads its validation split after a line on standard input."""


class Interrupted(RecordingObserver):
    """An observer that interrupts the training in iteration 7, as Ctrl-C does."""

    def stepped(self, progress: Progress) -> None:
        if progress.iteration == 7:
            raise KeyboardInterrupt


def make_old(cache: Path) -> None:
    """Set the times of all files in the cache to two months ago."""
    past = (utc_now() - 2 * MONTH).timestamp()
    for path in (cache, *cache.rglob("*")):
        os.utime(path, (past, past))


def clean(cache: Path, *tasks: tuple[Task, TaskStore]) -> Retention:
    return cache_retention.remove(cache, tasks, MONTH, utc_now())


def names(cache: Path) -> set[str]:
    return {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Return a task that was trained on two drops."""
    workspace = Workspace(LocalStore(tmp_path / "store"), tmp_path / "work")
    for seed in range(2):
        workspace.land(0, 1, seed=seed)
        run(workspace)
    return workspace


def run(workspace: Workspace) -> RunRecord:
    ended = stages.run_task(workspace.context, TASK, Request())
    assert isinstance(ended, RunRecord)
    assert ended.error is None
    return ended


def leave_unneeded(workspace: Workspace) -> set[str]:
    """Put files into the cache that no run reads now, and return their names."""
    cache, before = workspace.context.cache, names(workspace.context.cache)
    for drop in workspace.store.drops.all():
        load_decoded(drop, workspace.store, 2 * SIZE, cache, ["test"])
    shards = (f"shards/{'1' * 64}.tar", f"shards/{'2' * 64}.part", f"shards/.{'3' * 32}")
    for name in (f"writing-abc/{'0' * 64}-8-val.safetensors", *shards):
        (cache / name).parent.mkdir(exist_ok=True)
        (cache / name).write_bytes(bytes(5000))
    return names(cache) - before


def test_gc_removes_unneeded_old_files_of_the_cache(workspace: Workspace) -> None:
    needed, cache = names(workspace.context.cache), workspace.context.cache
    unneeded = leave_unneeded(workspace)
    foreign = {"notes.txt", "shards/room.lock", f"{'0' * 64}.safetensors", f".{'3' * 32}"}
    for name in foreign:
        (cache / name).touch()
    make_old(cache)
    planned = cache_retention.plan_removal(cache, [(TASK, workspace.store)], MONTH, utc_now())
    assert names(cache) == needed | unneeded | foreign
    done = clean(cache, (TASK, workspace.store))
    assert done.removals == planned.removals
    [removal] = done.removals
    removed = {str(Path(key).relative_to(cache)) for key in removal.keys}
    assert {name.split("/")[0] if "writing" in name else name for name in unneeded} == removed
    assert removal.bytes >= 15_000
    assert names(cache) == needed | foreign
    assert not (cache / "writing-abc").exists()
    workspace.land(0, 1, seed=2)
    assert run(workspace).decision


def test_gc_keeps_recently_used_files_of_the_cache(workspace: Workspace) -> None:
    cache = workspace.context.cache
    leave_unneeded(workspace)
    make_old(cache)
    before = names(cache)
    for drop in workspace.store.drops.all():  # this sets the files' access times, even if the mount is noatime
        load_decoded(drop, workspace.store, 2 * SIZE, cache, ["test"])
    other = TaskStore(LocalStore(workspace.folder / "other"), "other")
    gone = before - names(cache) if clean(cache, (TASK, other)) else set()
    # Three splits of two drops, and an incomplete file.
    assert len([name for name in gone if name.endswith("safetensors")]) == 2 * 3 + 1
    assert clean(cache, (TASK, other)).removals == ()


def test_gc_keeps_the_files_that_an_unfinished_run_reads(workspace: Workspace) -> None:
    """The run has another image size than the task has now."""
    cache, smaller = workspace.context.cache, make_task(data=TASK.data.model_dump() | {"image_size": SIZE // 2})
    workspace.land(0, 1, seed=2)
    planned = stages.plan(workspace.context, smaller, Request())
    assert isinstance(planned, Plan)
    with pytest.raises(KeyboardInterrupt):
        stages.run_plan(replace(workspace.context, observer=Interrupted()), planned)
    make_old(cache)
    before = names(cache)
    assert clean(cache, (TASK, workspace.store)).removals == ()
    stages.run_plan(workspace.context, planned)
    assert names(cache) >= before
    make_old(cache)
    [removal] = clean(cache, (TASK, workspace.store)).removals
    assert {Path(key).name.split("-")[1] for key in removal.keys} == {str(SIZE // 2)}


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield another process that has loaded a streamed dataset."""
    two_drops(LocalStore(tmp_path / "store"), tmp_path)
    command = [sys.executable, "-c", READER, str(tmp_path / "store"), str(tmp_path / "cache")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": TESTS}
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "loaded\n"
        yield process


@pytest.mark.slow
def test_gc_keeps_the_cache_while_a_process_streams_from_it(tmp_path: Path, reader: subprocess.Popen[str]) -> None:
    cache, other = tmp_path / "cache", TaskStore(LocalStore(tmp_path / "other"), "other")
    make_old(cache)
    before = names(cache)
    kept = clean(cache, (STREAMED, other))
    assert (kept.removals, kept.kept) == ((), {str(cache): "a process on this machine is reading it"})
    assert names(cache) == before
    said, _ = reader.communicate("now\n")
    assert int(said) > 0
    assert reader.returncode == 0
    make_old(cache)
    assert {name for name in names(cache) if name.endswith((".val", ".tar"))}
    clean(cache, (STREAMED, other))
    assert {name for name in names(cache) if name.endswith((".val", ".tar", ".safetensors"))} == set()


def test_loading_beside_gc_gives_the_same_images(workspace: Workspace) -> None:
    """Repeatedly remove every file from the cache while another thread reads the cache."""
    [first, _] = workspace.store.drops.all()
    expected = load_decoded(first, workspace.store, SIZE, workspace.context.cache)["train"].images.clone()
    other, ended, removed = TaskStore(LocalStore(workspace.folder / "other"), "other"), Event(), 0

    def clean_until_ended() -> None:
        nonlocal removed
        while not ended.is_set():
            done = cache_retention.remove(workspace.context.cache, [(TASK, other)], -MONTH, utc_now())
            removed += len(done.removals)

    cleaner = Thread(target=clean_until_ended)
    cleaner.start()
    try:
        while removed < 10:
            loaded = load_decoded(first, workspace.store, SIZE, workspace.context.cache)["train"].images
            assert torch.equal(loaded, expected)
    finally:
        ended.set()
        cleaner.join()


def test_cache_hold_ends_with_its_last_reference(tmp_path: Path) -> None:
    (tmp_path / f"{'0' * 64}-8-val.safetensors").touch()
    make_old(tmp_path)
    other = TaskStore(LocalStore(tmp_path / "other"), "other")
    hold = CacheHold(tmp_path)
    assert clean(tmp_path, (TASK, other)).kept
    del hold
    assert clean(tmp_path, (TASK, other)).removals


def test_gc_command_cleans_the_cache_of_its_machine(
    workspace: Workspace, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = workspace.context.cache
    unneeded = leave_unneeded(workspace)
    make_old(cache)
    monkeypatch.setenv("RETRAIN_CACHE", str(cache))
    (tmp_path / "pets.json").write_text(json.dumps(make_task(store=str(tmp_path / "store")).model_dump()))
    command = ("gc", "-t", str(tmp_path / "pets.json"), "--older-than", "30d")
    [_, shown] = json.loads(retrain((*command, "--dry-run", "--json"), capfd).out)
    assert unneeded <= names(cache)
    assert (shown["task"], shown["is_done"], shown["removals"][0]["what"]) == (None, False, "cache")
    table = retrain(command, capfd)
    assert table.code == 0
    assert re.search(r"cache +not used since [0-9-]{10} +6 +[0-9.]+ kB", table.out)
    assert names(cache).isdisjoint(unneeded)
    monkeypatch.setenv("RETRAIN_CACHE", str(tmp_path / "absent"))
    assert len(json.loads(retrain((*command, "--json"), capfd).out)) == 1
