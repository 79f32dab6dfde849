"""The watcher with an S3 server, its queue and Kubeflow's API: one run for each set of drops."""

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from support import faulty_s3
from support.kfp_server import KfpServer, serving
from support.pictures import png
from support.processes import preloaded_programs
from support.watching import (
    EAGER,
    Recorder,
    TaskUnderTest,
    counts,
    dead_letters,
    metrics_of,
    notification,
    notified_queue,
    on_s3,
    send,
)

from retrain.cli.pipeline import build_pipeline
from retrain.config.task import Task
from retrain.kubeflow.submission import KubeflowExecutor
from retrain.pipeline.next_run import plan_next_run
from retrain.pipeline.planning import Request
from retrain.records import Plan
from retrain.store.drops import Quarantine
from retrain.store.s3.sqs import SqsQueue
from retrain.store.task_store import TaskStore
from retrain.utils.clock import utc_now
from retrain.watcher.health import MAX_SILENCE, Health
from retrain.watcher.queue import EventQueue
from retrain.watcher.task_watch import TaskWatch
from retrain.watcher.watcher import Watcher


@pytest.fixture
def kfp() -> Iterator[KfpServer]:
    with serving() as server:
        yield server


@pytest.fixture
def watched(bucket: str, s3: str, kfp: KfpServer) -> TaskUnderTest:
    return on_s3(bucket, s3, kfp.url)


def test_drops_that_land_together_become_one_run(
    watched: TaskUnderTest, bucket: str, s3: str, kfp: KfpServer, tmp_path: Path
) -> None:
    queue = notified_queue(bucket, s3)
    watcher = watched.watcher(KubeflowExecutor(build_pipeline), SqsQueue(queue))
    for drop in ("a", "b"):
        watched.land(tmp_path / "in", drop)
    send(queue, s3, *[notification(bucket, f"team+a/pets/drops/{drop}/drop.json") for drop in "abba"])
    assert watcher.once()
    [first] = kfp.names
    assert watched.owners() == {"a": first, "b": first}
    assert [drop.id for drop in watched.plan(first).dataset.drops] == ["a", "b"]
    assert counts(queue, s3) == (0, 0)

    watched.land(tmp_path / "in", "c")
    assert watcher.once()
    assert kfp.names == [first]
    assert counts(queue, s3) == (0, 0)

    watched.end(first)
    assert watcher.once()
    [_, second] = kfp.names
    assert watched.owners() == {"a": first, "b": first, "c": second}
    assert [run["runtime_config"]["parameters"]["submission"] for run in kfp.runs] == [first, second]


def test_only_one_of_two_watchers_submits_a_run(watched: TaskUnderTest, kfp: KfpServer, tmp_path: Path) -> None:
    for drop in ("a", "b"):
        watched.land(tmp_path / "in", drop)
    watchers = [watched.watcher(KubeflowExecutor(build_pipeline)) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda watcher: watcher.once(), watchers)) == [True, True]
    assert [watcher.once() for watcher in watchers] == [True, True]
    assert kfp.names == [watched.owners()["a"]]


def test_run_of_a_watcher_killed_before_submission_is_started(
    watched: TaskUnderTest, bucket: str, s3: str, kfp: KfpServer, tmp_path: Path
) -> None:
    watched.land(tmp_path / "in", "a")
    code = (
        "import os, signal, sys; from support.watching import on_s3\n"
        "class Killed:\n"
        "    def ensure(self, task, plan, store):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "on_s3(*sys.argv[1:]).watcher(Killed()).once()\n"
    )
    killed = subprocess.run([preloaded_programs() / "python", "-c", code, bucket, s3, kfp.url], capture_output=True)
    assert killed.returncode == -9, killed.stderr
    assert list(watched.owners()) == ["a"]
    assert watched.watcher(KubeflowExecutor(build_pipeline)).once()
    assert kfp.names == [watched.owners()["a"]]


def test_api_server_outage_neither_loses_nor_repeats_a_run(
    watched: TaskUnderTest, bucket: str, s3: str, kfp: KfpServer, tmp_path: Path
) -> None:
    queue = notified_queue(bucket, s3)
    watcher = watched.watcher(KubeflowExecutor(build_pipeline), SqsQueue(queue), pace=EAGER)
    watched.land(tmp_path / "in", "a")
    kfp.down = True
    assert not watcher.once()
    assert list(watched.owners()) == ["a"]
    assert counts(queue, s3) == (0, 0)
    kfp.down, kfp.lose_reply = False, True
    kfp.create("experiments", {"display_name": "pets"})
    assert not watcher.once()
    assert watcher.once()
    assert kfp.names == [watched.owners()["a"]]


def test_ended_run_without_a_record_is_recorded_as_failed(
    watched: TaskUnderTest, kfp: KfpServer, tmp_path: Path
) -> None:
    watched.land(tmp_path / "in", "a")
    watcher = watched.watcher(KubeflowExecutor(build_pipeline), pace=EAGER)
    assert watcher.once()
    [run] = kfp.runs
    run["state"] = "CANCELED"
    assert watcher.once()
    record = watched.store.ledger.find(run["display_name"])
    assert record
    assert (record.outcome, record.error) == (
        "failed",
        f"its Kubeflow run {run['run_id']} ended without a record (state: CANCELED)",
    )
    assert watcher.once()
    assert len(kfp.runs) == 1


def test_unreadable_message_becomes_a_dead_letter(watched: TaskUnderTest, bucket: str, s3: str) -> None:
    queue = notified_queue(bucket, s3)
    dead = dead_letters(queue, s3, tries=2)
    watcher = watched.watcher(Recorder(), SqsQueue(queue, visibility=2))
    send(queue, s3, "not an event", notification(bucket, "elsewhere/pets/drops/a/drop.json"))
    assert watcher.once()
    assert sum(counts(queue, s3)) + sum(counts(dead, s3)) == 1, "the event of another task's drop is deleted"
    while counts(dead, s3) == (0, 0):
        assert watcher.once()
        time.sleep(0.1)
    assert (counts(queue, s3), counts(dead, s3)) == ((0, 0), (1, 0))
    assert metrics_of(watcher)["retrain_watcher_queue_errors_total"] == 2


def test_watcher_keeps_messages_of_a_task_with_a_broken_store(watched: TaskUnderTest, bucket: str, s3: str) -> None:
    queue, health = notified_queue(bucket, s3), Health(["pets", "cars"])
    broken = Task(name="cars", store="s3://no-such-bucket/team", endpoint_url=s3)
    events = EventQueue(SqsQueue(queue, visibility=300), [watched.task, broken], health)
    watches = [TaskWatch(task, Recorder(), health) for task in (watched.task, broken)]
    for bucket_and_prefix, drop in (((bucket, "team+a/pets"), "a"), (("no-such-bucket", "team/cars"), "b")):
        send(queue, s3, notification(bucket_and_prefix[0], f"{bucket_and_prefix[1]}/drops/{drop}/drop.json"))
    assert not Watcher(watches, health, 0, events).once()
    assert counts(queue, s3) == (0, 1), "only the message that names the broken task stays in the queue"


def test_turn_between_polls_sends_one_request(bucket: str, s3: str) -> None:
    """The costs in docs/operations.md are computed from this request."""
    requests: list[str] = []

    def record(request: faulty_s3.Request, forward: faulty_s3.Forward) -> faulty_s3.Reply:
        requests.append(f"{request.method} {parse_qs(request.path).get('prefix')}")
        return forward(request)

    with faulty_s3.faulty(s3, record) as proxy:
        watcher = on_s3(bucket, proxy).watcher(Recorder(), poll_seconds=300)
        assert watcher.once()
        requests.clear()
        assert watcher.once()
    assert requests == ["GET ['team a/pets/claims/']"]


def test_each_step_of_a_turn_is_a_heartbeat(bucket: str, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn over many tasks whose stores answer slowly must not look like a watcher that has stopped."""
    now = [0.0]
    monkeypatch.setattr("retrain.watcher.health.time.monotonic", lambda: now[0])
    alive, health = [], Health(map(str, range(5)))

    class SlowWatch(TaskWatch):
        def check_drops(self, drops: object = None) -> None:
            now[0] += MAX_SILENCE / 2
            alive.append(health.is_alive())

        advance = notify = check_drops

    tasks = [Task(name=str(number), store=f"s3://{bucket}", endpoint_url=s3) for number in range(5)]
    assert Watcher([SlowWatch(task, Recorder(), health) for task in tasks], health, 0, None).once()
    assert alive == [True] * 15


def test_watcher_starts_runs_while_its_queue_fails(watched: TaskUnderTest, s3: str, tmp_path: Path) -> None:
    submitter = Recorder()
    watcher = watched.watcher(submitter, SqsQueue(f"{s3}/123456789012/no-such-queue"))
    watched.land(tmp_path / "in", "a")
    assert watcher.once()
    assert submitter.runs == [watched.owners()["a"]]


def test_uploads_without_manifest_are_committed_or_quarantined(
    watched: TaskUnderTest, bucket: str, s3: str, tmp_path: Path
) -> None:
    queue = notified_queue(bucket, s3)
    submitter = Recorder()
    watcher = watched.watcher(submitter, SqsQueue(queue))
    for number in range(40):
        watched.store.objects.write(watched.store.keys.drop_file("good", f"cat/{number}.png"), png(number))
        watched.store.objects.write(
            watched.store.keys.drop_file("bad", f"cat/{number}.png"), png(number) if number else b"no image"
        )
    assert watcher.once()
    assert submitter.runs == [], "neither upload is complete"
    for drop in ("good", "bad"):
        watched.store.objects.write(watched.store.keys.success(drop), b"")
    assert watcher.once()
    assert watcher.once()
    assert watched.owners() == {"good": submitter.runs[0]}
    report = Quarantine.model_validate_json(watched.store.objects.read(watched.store.keys.quarantine("bad"))[0])
    assert report.cause.endswith(
        "pets/drops/bad: cat/0.png: cannot be decoded: not an image in AVIF, BMP, GIF, JPEG, PNG, TIFF, WEBP, HEIF: "
        "convert or remove it. Correct or remove them, or leave a share of the samples out with data.max_bad_share"
    )
    assert metrics_of(watcher)["retrain_watcher_quarantined_drops_total"] == 1


def test_damaged_manifest_does_not_block_other_drops(watched: TaskUnderTest, tmp_path: Path) -> None:
    submitter = Recorder()
    watcher = watched.watcher(submitter)
    watched.store.objects.write(watched.store.keys.manifest("bad"), b"{}")
    watched.land(tmp_path / "in", "good")
    assert watcher.once()
    assert watched.owners() == {"good": submitter.runs[0]}
    assert "not a drop's manifest" in watched.store.objects.read(watched.store.keys.quarantine("bad"))[0].decode()


def test_drop_waits_for_the_scheduled_time(watched: TaskUnderTest, tmp_path: Path) -> None:
    watched.land(tmp_path / "in", "a")
    submitter = Recorder()
    later = TaskUnderTest(watched.task.model_copy(update={"schedule": "0 0 1 1 *"}))
    watcher = later.watcher(submitter)
    assert watcher.once()
    assert submitter.runs == []
    assert metrics_of(watcher)["retrain_watcher_lag_seconds"] > 0
    drop = watched.store.drops.read("a")
    long_ago = drop.model_copy(update={"committed_at": drop.committed_at.replace(year=2020)})
    watched.store.objects.write(watched.store.keys.manifest("a"), long_ago.to_bytes())
    assert later.watcher(submitter).once()
    assert submitter.runs == [watched.owners()["a"]]


def test_drop_from_a_machine_with_a_fast_clock_is_not_delayed(watched: TaskUnderTest, tmp_path: Path) -> None:
    watched.land(tmp_path / "in", "a")
    drop, now, submitter = watched.store.drops.read("a"), [utc_now()], Recorder()
    ahead = drop.model_copy(update={"committed_at": now[0] + timedelta(days=400)})
    watched.store.objects.write(watched.store.keys.manifest("a"), ahead.to_bytes())
    nightly = watched.task.model_copy(update={"schedule": "0 2 * * *"})
    watch = TaskWatch(nightly, submitter, Health(["pets"]), clock=lambda: now[0])
    for days, runs in ((0, 0), (1, 1)):
        now[0] += timedelta(days=days)
        watch.check_drops()
        watch.advance()
        assert len(submitter.runs) == runs


def test_watcher_starts_no_run_for_drops_already_trained_on(watched: TaskUnderTest, tmp_path: Path) -> None:
    watched.land(tmp_path / "in", "a")
    submitter = Recorder()
    watcher = watched.watcher(submitter)
    planned = plan_next_run(watched.store, watched.task, Request())
    assert isinstance(planned, Plan)
    watched.store.run(planned.run_id).write_plan(planned)
    watched.store.champion.swap(watched.store.champion.read(), planned.run_id, "promoted")
    watched.end(planned.run_id)
    assert watcher.once()
    assert submitter.runs == []
    assert metrics_of(watcher)["retrain_watcher_lag_seconds"] == 0


def test_lag_is_zero_while_the_run_of_all_drops_trains(watched: TaskUnderTest, tmp_path: Path) -> None:
    """A run in the watcher's own process keeps the watcher from further turns until the run has ended."""
    watched.land(tmp_path / "in", "a")
    seen: list[float] = []

    class Trainer(Recorder):
        def ensure(self, task: Task, plan: Plan, store: TaskStore) -> bool:
            seen.append(metrics_of(watcher)["retrain_watcher_lag_seconds"])
            return super().ensure(task, plan, store)

    watcher = watched.watcher(Trainer())
    assert watcher.once()
    assert seen == [0]


def test_watcher_is_ready_while_its_first_run_trains(watched: TaskUnderTest, tmp_path: Path) -> None:
    watched.land(tmp_path / "in", "a")
    seen: list[list[str]] = []

    class Trainer(Recorder):
        def ensure(self, task: Task, plan: Plan, store: TaskStore) -> bool:
            seen.append(watcher.health.problems())
            return super().ensure(task, plan, store)

    watcher = watched.watcher(Trainer())
    assert watcher.health.problems() == ["pets: not checked yet"]
    assert watcher.once()
    assert seen == [[]]
