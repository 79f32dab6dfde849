"""`retrain gc` removes only files that no later step needs."""

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.terminal import Ran, retrain
from support.trainings import RecordingObserver
from support.uploads import good, shard, task_in, upload
from support.workspaces import Workspace, make_task

from retrain.data.uploads import ingest_drop
from retrain.errors import RunError, StoreError
from retrain.monitoring.exporter import Exporter, WatchedTask
from retrain.monitoring.report import read_sources, render_page
from retrain.pipeline import retention, stages
from retrain.pipeline.approval import promote_by_hand
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.records import Plan, Retention, RunRecord
from retrain.records.ledger import total_savings
from retrain.store import LocalStore, champions
from retrain.store.claims import Claim
from retrain.store.keys import TaskKeys
from retrain.store.task_store import open_task_store
from retrain.training.progress import Progress
from retrain.utils.clock import utc_now

TASK = make_task(gate={"margin": 1.0}, training=make_task().training.model_dump() | {"save_seconds": 0})
AGE = timedelta(0)


class StopsAt(RecordingObserver):
    """An observer that interrupts the training in the iteration with this number, as Ctrl-C does."""

    def __init__(self, iteration: int) -> None:
        super().__init__()
        self._iteration = iteration

    def stepped(self, progress: Progress) -> None:
        if progress.iteration == self._iteration:
            raise KeyboardInterrupt


def make_workspace(folder: Path, drops: int = 0) -> Workspace:
    """Return a task with this number of drops, and with one run after each drop."""
    workspace = Workspace(LocalStore(folder / "store"), folder / "work")
    for seed in range(drops):
        workspace.land(0, 1, seed=seed)
        run(workspace)
    return workspace


def run(workspace: Workspace) -> RunRecord:
    ended = stages.run_task(workspace.context, TASK, Request())
    assert isinstance(ended, RunRecord), ended
    return ended


def collect(workspace: Workspace, keep_last: int = 0, age: timedelta = AGE) -> Retention:
    with workspace.store.lock() as locked:
        return retention.remove(locked, retention.plan_removal(locked, keep_last, age, utc_now()), utc_now())


def roll_back(workspace: Workspace) -> None:
    seen = workspace.store.champion.read()
    assert seen.champion
    target = champions.rollback_target(seen.champion)
    workspace.store.run(target).weights()
    promote_by_hand(workspace.store, seen, target, "rolled back", champions.Author("ann", None))


def large(workspace: Workspace) -> set[str]:
    """Return the runs that have a model."""
    return {key.split("/")[2] for key in workspace.contents() if key.endswith("/model.safetensors")}


def test_gc_removes_old_models_but_not_champion_and_baseline(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, drops=3)
    first, second, third = workspace.store.ledger.read()
    before = workspace.contents()
    found = retention.plan_removal(workspace.store, 0, AGE, utc_now())
    assert workspace.contents() == before
    assert [removal.what for removal in found.removals] == [second.run_id]
    assert found.kept == {first.run_id: "it is the baseline of the targets", third.run_id: "it is the champion"}
    done = collect(workspace)
    assert done.bytes == sum(len(data) for key, data in before.items() if key in set(done.removals[0].keys))
    assert large(workspace) == {first.run_id, third.run_id}
    gone = {key for key in before if key not in workspace.contents()}
    assert gone == {key for key in before if f"/{second.run_id}/" in key and key.endswith(".safetensors")}
    assert workspace.store.ledger.read() == [first, second, third]


def test_gc_keeps_recent_runs_and_the_newest_runs(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, drops=4)
    assert collect(workspace, age=timedelta(days=1)).removals == ()
    assert len(collect(workspace, keep_last=1).removals) == 1
    roll_back(workspace)
    workspace.land(0, 1, seed=4)
    assert run(workspace).decision


def test_gc_keeps_all_runs_if_there_are_few(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, drops=1)
    trials = [stages.run_task(workspace.context, TASK, Request(method, "trial")) for method in ("scratch", "naive")]
    runs = {record.run_id for record in workspace.store.ledger.read()}
    assert len(trials) + 1 == len(runs) == 3
    for keep_last in (3, 4, 5, 50):
        assert retention.plan_removal(workspace.store, keep_last, AGE, utc_now()).removals == ()
    assert collect(workspace, keep_last=4).kept.keys() == runs


def test_gc_reads_the_claims_of_all_runs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = make_workspace(tmp_path, drops=1)
    workspace.land(0, 1, seed=1)
    for method in ("scratch", "naive", "continuous"):
        assert isinstance(stages.plan(workspace.context, TASK, Request(method)), Plan)
    run(workspace)
    listed, list_objects = [], LocalStore.list
    monkeypatch.setattr(
        LocalStore, "list", lambda store, prefix="": listed.append(prefix) or list_objects(store, prefix)
    )
    assert retention.find_unfinished_plans(workspace.store, utc_now()) == []
    assert listed.count(workspace.store.keys.claims) == 1


def test_gc_names_a_damaged_claim(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    workspace.store.objects.write(workspace.store.keys.claim("gone"), b"{}")
    with pytest.raises(StoreError, match=r"pets/claims/gone\.json was not written by this version of retrain, or"):
        collect(workspace)


def test_gc_keeps_the_files_of_an_interrupted_run(tmp_path: Path) -> None:
    """The run's parent was rolled back after the interruption, so only this run needs the parent's model."""
    workspace = make_workspace(tmp_path, drops=2)
    parent = workspace.store.champion.read().run_id
    workspace.land(0, 1, seed=2)
    planned = stages.plan(workspace.context, TASK, Request())
    assert isinstance(planned, Plan)
    with pytest.raises(KeyboardInterrupt):
        stages.run_plan(replace(workspace.context, observer=StopsAt(7)), planned)
    roll_back(workspace)
    found = collect(workspace)
    assert found.kept[parent or ""] == f"{planned.run_id} needs it"
    resumed = RecordingObserver()
    stages.run_plan(replace(workspace.context, observer=resumed), planned)
    assert resumed.stepped_to[0] == 7


def test_gc_removes_checkpoints_of_an_abandoned_run(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, drops=1)
    workspace.land(0, 1, seed=1)
    planned = stages.plan(workspace.context, TASK, Request("naive"))
    assert isinstance(planned, Plan)
    with pytest.raises(KeyboardInterrupt):
        stages.run_plan(replace(workspace.context, observer=StopsAt(7)), planned)
    assert collect(workspace).removals == ()
    run(workspace)
    assert collect(workspace, age=timedelta(days=1)).removals == ()
    [removal] = collect(workspace).removals
    assert (removal.what, removal.is_marked) == (planned.run_id, False)
    assert all("/state/" in key for key in removal.keys)
    assert workspace.store.run(planned.run_id).plan() == planned


def test_gc_removes_orphaned_shards_and_claims(tmp_path: Path) -> None:
    """A claim is the record of the run that trains on a drop.

    An orphaned shard is missing in its drop's manifest. An orphaned claim is for a drop that does not exist.
    """
    workspace = make_workspace(tmp_path, drops=1)
    [record] = workspace.store.ledger.read()
    [drop] = record.drops
    orphan = workspace.store.keys.drop_file(drop, "train-000009-0123abcd.tar")
    packed = workspace.store.keys.drop_file(drop, "packed/train-000009-0123abcd.tar")
    foreign = workspace.store.keys.drop_file(drop, "train-theirs.tar")
    for key in (orphan, packed, foreign):
        workspace.store.objects.write(key, b"left behind")
    for name in (drop, "gone"):
        workspace.store.objects.write(
            workspace.store.keys.claim(name), Claim(drop=name, run_id=record.run_id).to_bytes()
        )
    assert [removal.keys for removal in collect(workspace).removals] == [
        (packed, orphan),
        (workspace.store.keys.claim("gone"),),
    ]
    assert foreign in workspace.contents()
    assert workspace.store.keys.claim(drop) in workspace.contents()


def test_gc_keeps_uploads_that_are_named_like_packed_shards(tmp_path: Path) -> None:
    """The upload has shards that `retrain` packed for another task. They are packed again, because of an alias."""
    task = task_in(tmp_path, aliases={"cat": "lion"})
    store = open_task_store(task)
    upload(store.objects, "week", {"train-000000-0123abcd.tar": shard(good())})
    ingest_drop("week", task, store)
    uploaded = store.keys.drop_file("week", "train-000000-0123abcd.tar")
    orphan = store.keys.drop_file("week", "packed/train-000009-0123abcd.tar")
    store.objects.write(orphan, b"left behind")
    [removal] = retention.plan_removal(store, 0, AGE, utc_now()).removals
    assert removal.keys == (orphan,)
    assert store.objects.read(uploaded)


def test_rollback_names_the_removed_model(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, drops=3)
    _, second, _ = workspace.store.ledger.read()
    collect(workspace)
    with pytest.raises(RunError, match=f"{second.run_id}/model.safetensors was removed by `retrain gc` on "):
        roll_back(workspace)


def test_promotion_beside_gc_keeps_the_model_or_the_old_champion(tmp_path: Path) -> None:
    """Check both orders: the promotion comes before the removal, or after it."""
    workspace = make_workspace(tmp_path, drops=3)
    _, second, third = workspace.store.ledger.read()
    found = retention.plan_removal(workspace.store, 0, AGE, utc_now())
    promote_by_hand(
        workspace.store, workspace.store.champion.read(), second.run_id, "promoted by hand", champions.NO_AUTHOR
    )
    assert retention.remove(workspace.store, found, utc_now()).removals == ()
    assert workspace.store.run(second.run_id).weights()
    promote_by_hand(
        workspace.store, workspace.store.champion.read(), third.run_id, "promoted by hand", champions.NO_AUTHOR
    )
    collect(workspace)
    with pytest.raises(RunError, match=f"was removed by `retrain gc`; {third.run_id} stays the champion"):
        promote_by_hand(
            workspace.store, workspace.store.champion.read(), second.run_id, "promoted by hand", champions.NO_AUTHOR
        )
    assert workspace.store.champion.read().run_id == third.run_id


ACTS = ("land", "run", "interrupt", "calibrate", "roll back", "gc")


@settings(max_examples=5, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(acts=st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 2)), min_size=6, max_size=8))
def test_random_histories_continue_after_gc(tmp_path: Path, acts: list[tuple[str, int]]) -> None:
    """Check that rollbacks, resumed runs and next runs work after any history, and that no sum changes."""
    workspace = make_workspace(tmp_path / uuid4().hex, drops=1)
    kept, interrupted = 1, None
    for seed, (act, number) in enumerate([*acts, ("gc", 1), ("roll back", 0), ("land", 0), ("run", 0)], start=1):
        if act == "land":
            workspace.land(0, 1, seed=seed)
        elif act == "interrupt":
            planned = stages.plan(workspace.context, TASK, Request())
            if isinstance(planned, Plan):
                interrupted = planned
                with pytest.raises(KeyboardInterrupt):
                    stages.run_plan(replace(workspace.context, observer=StopsAt(1 + number)), planned)
        elif act == "roll back" and kept:
            seen = workspace.store.champion.read().champion
            assert seen
            if len(champions.standing_runs(seen)) > 1:
                roll_back(workspace)
                kept -= 1
        elif act == "gc":
            before = workspace.store.ledger.read()
            collect(workspace, keep_last=number)
            kept = number if kept >= number else kept
            assert workspace.store.ledger.read() == before
            assert total_savings(workspace.store.ledger.read()) == total_savings(before)
        else:
            purpose = "calibrate" if act == "calibrate" else "retrain"
            ended = stages.run_task(workspace.context, TASK, Request(purpose=purpose))
            assert isinstance(ended, RunRecord | NoRunNeeded)
            if isinstance(ended, RunRecord):
                assert ended.error is None
                kept += act == "run"
    if interrupted and workspace.store.ledger.find(interrupted.run_id) is None:
        stages.run_plan(workspace.context, interrupted)
        record = workspace.store.ledger.find(interrupted.run_id)
        assert record
        assert record.error is None
    records = workspace.store.ledger.read()
    page = render_page(read_sources(workspace.store, records))
    assert all(record.run_id in page for record in records)


@pytest.fixture
def command(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Return a function that runs `retrain gc`, a hundred days after the last of three runs."""
    make_workspace(tmp_path, drops=3)
    (tmp_path / "pets.json").write_text(json.dumps(make_task(store=str(tmp_path / "store")).model_dump()))
    monkeypatch.setenv("RETRAIN_CACHE", str(tmp_path / "cache"))  # not the cache of the person who runs the tests
    importlib.import_module("retrain.cli.formatting")  # before the clock is replaced, for later tests in this process
    later = utc_now() + timedelta(days=100)
    monkeypatch.setattr("retrain.utils.clock.utc_now", lambda: later)
    return lambda *arguments: retrain(("gc", "-t", str(tmp_path / "pets.json"), *arguments), capfd)


def test_gc_command_shows_then_removes_then_finds_nothing(command: Callable[..., Ran]) -> None:
    too_young = command("--keep-last", "0", "--older-than", "101d", "--dry-run")
    assert too_young.out.strip() == "0.0 kB would be freed; 3 runs kept with all files"
    shown = command("--keep-last", "0", "--dry-run")
    assert "kB would be freed; 2 runs kept with all files" in shown.out
    assert "continuous-" in shown.out
    removed = command("--keep-last", "0")
    assert (removed.code, removed.out.split()) == (0, shown.out.replace("would be freed", "freed").split())
    [nothing] = json.loads(command("--keep-last", "0", "--json").out)
    assert (nothing["removals"], nothing["is_done"]) == ([], True)


def test_gc_command_continues_after_a_damaged_ledger(
    command: Callable[..., Ran], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store, damaged = LocalStore(tmp_path / "store"), TaskKeys("cars").record("scratch-1")
    store.write(damaged, b"{")
    (tmp_path / "cars.json").write_text(json.dumps({"name": "cars", "store": str(store.root)}))
    shown = json.loads(command("--keep-last", "0", "--dry-run", "--json").out)
    both = ("-t", str(tmp_path / "cars.json"), "-t", str(tmp_path / "pets.json"))
    ran = retrain(("gc", *both, "--keep-last", "0", "--json"), capfd)
    assert (ran.code, [one["task"] for one in json.loads(ran.out)]) == (2, ["pets"])
    assert json.loads(ran.out)[0]["removals"] == shown[0]["removals"] != []
    assert ran.err.splitlines()[-1].startswith(f"retrain: {store.url}/{damaged} was not written by this version")
    assert ran.err.endswith("Restore a damaged record from a copy of the store\n")


def test_gc_command_refuses_an_invalid_duration(command: Callable[..., Ran]) -> None:
    for text in ("soon", "0d", "1s"):
        wrong = command("--older-than", text)
        assert (wrong.code, wrong.out) == (2, "")
        assert (
            f"--older-than {text}: must be a whole number above 0 with m, h, d or w (minutes, hours, days, weeks)"
            in wrong.err
        )


def test_exporter_measures_the_store_hourly(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, drops=3)
    now = [utc_now()]
    watched = WatchedTask(workspace.store, clock=lambda: now[0])

    def stored_bytes() -> dict[str, float]:
        exporter = Exporter([watched])
        exporter.refresh()
        samples = [sample for family in exporter.collect() for sample in family.samples]
        return {one.labels["kind"]: one.value for one in samples if one.name == "retrain_store_bytes"}

    before = stored_bytes()
    assert sum(before.values()) == sum(map(len, workspace.contents().values()))
    assert before["states"] == 0 < before["models"]
    freed = collect(workspace).bytes
    assert stored_bytes() == before
    now[0] += timedelta(hours=1)
    after = stored_bytes()
    assert before["models"] + before["learning_speed"] - freed == after["models"] + after["learning_speed"]
