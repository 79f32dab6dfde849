"""A drop is quarantined after three validations that killed their process or the watcher.

This holds for any number of watchers. A validation that still runs in another watcher is not counted.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.pictures import png
from support.programs import python_environment
from support.uploads import good, shard, task_in, upload
from support.watching import Recorder, TaskUnderTest, counts, metrics_of, notified_queue, on_s3

from retrain.config.task import Model, Task
from retrain.errors import StoreError
from retrain.store import LocalStore, ObjectStore
from retrain.store.base import Entry
from retrain.store.drops import DropStates
from retrain.store.keys import TaskKeys
from retrain.store.lease import LeaseState
from retrain.store.locks import TaskLocked
from retrain.store.s3.sqs import SqsQueue
from retrain.store.task_store import TaskStore
from retrain.utils.processes import WorkerCrashed
from retrain.watcher import ingestion
from retrain.watcher.health import MAX_SILENCE, Health
from retrain.watcher.ingestion import (
    MAX_ATTEMPTS,
    Ingestion,
    ValidationAttempts,
    ValidationOutcome,
    count_validation,
    validate_drop,
)
from retrain.watcher.task_watch import Pace, TaskWatch

KEYS = TaskKeys("pets")
WATCHERS = MAX_ATTEMPTS + 2
LEASE = 60.0
"""Duration of a lease in seconds. It is long enough that even a busy machine renews the lease in time."""
SHORT = 0.3
"""Duration of a lease in seconds. It is so short that the lease expires while a test waits."""


@pytest.fixture
def watched(tmp_path: Path) -> TaskUnderTest:
    return TaskUnderTest(task_in(tmp_path).model_copy(update={"model": Model(name="logistic")}))


def die_of_bad_drop(number: int, deaths: Path, task: Task, drop: str, cache_dir: Path | None) -> ValidationOutcome:
    """Validate a drop. If it is the drop a-bad, send the signal `number` to the current process."""
    if drop != "a-bad":
        return validate_drop(task, drop, cache_dir)
    with deaths.open("a") as file:
        file.write(f"{os.getpid()}\n")
    os.kill(os.getpid(), number)
    return ValidationOutcome(None, ())


def freeze_next_child(frozen: list[BaseProcess], watcher: Future[Any], others: list[BaseProcess]) -> None:
    """Stop the validation process of a watcher, if the watcher starts one. `others` are processes that ran before."""
    while not watcher.done():
        for child in multiprocessing.active_children():
            if child not in (*frozen, *others):
                os.kill(child.pid or 0, signal.SIGSTOP)
                frozen.append(child)
                return
        time.sleep(0.01)


def begin_and_die(folder: str) -> None:
    """Begin a validation and kill this process, as the kernel does when a container is out of memory."""
    with count_validation(TaskStore(LocalStore(Path(folder)), "pets"), "a-bad"):
        os.kill(os.getpid(), signal.SIGKILL)


def move_lease(store: ObjectStore, seconds: float) -> None:
    """Give the validation's lease to a process on another machine, for a number of seconds from now."""
    key = KEYS.validating("a-bad").lease
    state = LeaseState.model_validate_json(store.read(key)[0])
    changes = {
        "holder": state.holder.model_copy(update={"machine": "another"}),
        "expires_at": datetime.now(UTC) + timedelta(seconds=seconds),
    }
    store.write(key, state.model_copy(update=changes).to_bytes())


def validation_counts(store: ObjectStore) -> list[str]:
    """Return the keys of the stored counts of unfinished validations."""
    return [entry.key for entry in store.list("pets/validations/") if not entry.key.endswith("/lease.json")]


def test_drop_is_quarantined_after_three_killed_validations(
    watched: TaskUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher, submitted = watched.watcher(recorder := Recorder()), recorder.runs
    for first, drop in ((0, "a-bad"), (60, "b-good")):
        upload(watched.store.objects, drop, {"train.tar": shard(good(first=first))})
    for signal_number in (signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV):
        deadly = partial(die_of_bad_drop, signal_number, tmp_path / "deaths")
        monkeypatch.setattr(ingestion, "validate_drop", deadly)
        assert not watcher.once()
    monkeypatch.undo()
    assert [drop.id for drop in watched.plan(submitted[0]).dataset.drops] == ["b-good"]
    assert validation_counts(watched.store.objects) == ["pets/validations/a-bad.json"]
    assert watched.store.drops.quarantine_causes() == {}
    assert watcher.once()
    crash = "validating drop a-bad: its process was killed by SIGSEGV (a crash in native code)"
    cause = f"3 validations began and never ended; cause of the last: {crash}"
    assert watched.store.drops.quarantine_causes() == {"a-bad": cause}
    assert metrics_of(watcher)["retrain_watcher_quarantined_drops_total"] == 1
    assert validation_counts(watched.store.objects) == []
    watched.store.objects.delete(KEYS.quarantine("a-bad"))
    assert watcher.once()
    assert watched.store.objects.read(KEYS.manifest("a-bad"))


def fail_on_bad_drop(task: Task, drop: str, cache_dir: Path | None) -> ValidationOutcome:
    """Validate a drop. For the drop a-bad, raise an error that is not a user's mistake."""
    if drop == "a-bad":
        raise OSError(28, "No space left on device")
    return validate_drop(task, drop, cache_dir)


def test_unexpected_error_does_not_stop_other_validations(
    watched: TaskUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = watched.watcher(recorder := Recorder())
    for first, drop in ((0, "a-bad"), (60, "b-good")):
        upload(watched.store.objects, drop, {"train.tar": shard(good(first=first))})
    monkeypatch.setattr(ingestion, "validate_drop", fail_on_bad_drop)
    assert not watcher.once()
    assert watcher.health.problems() == ["pets: drop a-bad: OSError: [Errno 28] No space left on device"]
    assert [drop.id for drop in watched.plan(recorder.runs[0]).dataset.drops] == ["b-good"]
    assert validation_counts(watched.store.objects) == []
    monkeypatch.undo()
    assert watcher.once()
    assert watched.store.drops.committed().usable == ("a-bad", "b-good")


def test_event_about_a_committed_drop_lists_only_this_drop(
    watched: TaskUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each commit causes such an event. Listing all drops would take a time that grows with their number."""
    for drop in ("first", "second", "third"):
        watched.land(tmp_path / "pets", drop)
    watch = TaskWatch(watched.task, Recorder(), Health(["pets"]))
    watch.check_drops()
    watched.store.objects.write(watched.store.keys.drop_file("second", "cat/late.png"), png(9))
    listed, list_objects = [], LocalStore.list
    monkeypatch.setattr(
        LocalStore, "list", lambda store, prefix="": listed.append(prefix) or list_objects(store, prefix)
    )
    watch.check_drops(["second"])
    assert "drop second: 1 file was added after the commit" in caplog.text
    drops = watched.store.keys.drops
    assert {prefix for prefix in listed if prefix.startswith(drops)} == {watched.store.keys.drop_file("second", "")}


def test_watcher_logs_the_findings_of_a_validation(watched: TaskUnderTest, caplog: pytest.LogCaptureFixture) -> None:
    """The validation runs in a separate process. The test cannot read its log."""
    upload(watched.store.objects, "first", {f"cat/{number}.png": png(number) for number in range(200, 260)})
    upload(watched.store.objects, "second", {"dog/7.png": png(200), "dog/8.png": png(300), "Dog/9.png": png(301)})
    with caplog.at_level("INFO", "retrain"):
        assert watched.watcher(Recorder()).once()
    about = "pets: drop second"
    assert [message for message in caplog.messages if about in message] == [
        f"{about}: classes Dog and dog differ only in upper and lower case; data.aliases can make them one",
        f"{about}: 1 image left out: the same picture as an image of drop first",
        f"{about}: two classes: dog/7 (dog) is the same image as cat/200 of drop first (cat)",
        f"{about}: amendment 1: 1 sample of drop first relabelled",
        f"{about} is committed",
    ]


INGEST = """
import sys
from retrain.config.loading import load_task
from retrain.watcher.ingestion import validate_drop
assert validate_drop(load_task(sys.argv[1]), "a-shards").cause is None
print(*sys.modules)
"""


def test_validation_of_shards_loads_no_torch(watched: TaskUnderTest, tmp_path: Path) -> None:
    """Importing torch would take most of the processor time of the validation of a small drop."""
    upload(watched.store.objects, "a-shards", {"train.tar": shard(good())})
    task = tmp_path / "pets.yaml"
    task.write_text(watched.task.model_dump_json(exclude_defaults=True))
    command = [sys.executable, "-c", INGEST, str(task)]
    loaded = subprocess.run(command, env=python_environment(), capture_output=True, text=True, check=True).stdout
    assert watched.store.drops.committed().usable == ("a-shards",)
    assert {"retrain.data.uploads", "PIL.Image"} <= set(loaded.split())
    assert {"torch", "torchvision", "kfp"} & set(loaded.split()) == set()


def test_validation_that_kills_its_watcher_is_counted(watched: TaskUnderTest, tmp_path: Path) -> None:
    upload(watched.store.objects, "a-bad", {"train.tar": shard(good())})
    for _ in range(MAX_ATTEMPTS):
        process = multiprocessing.get_context("fork").Process(target=begin_and_die, args=(str(tmp_path / "store"),))
        process.start()
        process.join()
    assert watched.watcher(Recorder()).once()
    cause = "3 validations began and never ended; cause of the last: the watcher died during the validation"
    assert watched.store.drops.quarantine_causes() == {"a-bad": cause}


def test_validation_killed_remotely_counts_after_lease_expiry(watched: TaskUnderTest, tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=begin_and_die, args=(str(tmp_path / "store"),))
    process.start()
    process.join()
    move_lease(watched.store.objects, seconds=60)
    with pytest.raises(TaskLocked), count_validation(watched.store, "a-bad"):
        pass
    move_lease(watched.store.objects, seconds=0)
    with count_validation(watched.store, "a-bad") as attempts:
        assert attempts.before.begun == 1
    assert validation_counts(watched.store.objects) == []


def test_validation_running_in_another_watcher_is_not_counted(store: ObjectStore) -> None:
    with count_validation(TaskStore(store, "pets"), "a", LEASE) as first:
        assert first.before.begun == 0
        with (
            pytest.raises(TaskLocked, match="drop a: another watcher"),
            count_validation(TaskStore(store, "pets"), "a", LEASE),
        ):
            pass
        assert ValidationAttempts.model_validate_json(store.read(KEYS.validations("a"))[0]).begun == 1
    assert validation_counts(store) == []


def test_drop_that_another_watcher_validates_is_retried_later(bucket: str, s3: str) -> None:
    watched = on_s3(bucket, s3)
    queue = notified_queue(bucket, s3)
    watcher = watched.watcher(recorder := Recorder(), SqsQueue(queue))
    assert watcher.once()
    upload(watched.store.objects, "a-good", {"train.tar": shard(good())})
    with watched.store.validation("a-good").try_lease():
        assert watcher.once()
        assert recorder.runs == []
        assert counts(queue, s3) == (0, 1)
        assert metrics_of(watcher)["retrain_watcher_errors_total"] == 0
        assert watcher.health.problems() == []
    assert watcher.once()
    assert recorder.runs == [watched.owners()["a-good"]]


def test_racing_watchers_validate_once_and_count_no_failure(watched: TaskUnderTest) -> None:
    upload(watched.store.objects, "a-good", {"train.tar": shard(good())})
    watchers = [watched.watcher(Recorder(), pace=Pace(lease=LEASE)) for _ in range(WATCHERS)]
    frozen, others = list[BaseProcess](), multiprocessing.active_children()
    with ThreadPoolExecutor(WATCHERS) as pool:
        try:
            polls = []
            for watcher in watchers:
                polls.append(pool.submit(watcher.once))
                freeze_next_child(frozen, polls[-1], others)
            assert watched.store.drops.quarantine_causes() == {}
            assert [poll.result() for poll in polls[1:]] == [True] * (WATCHERS - 1)
        finally:
            for child in frozen:
                os.kill(child.pid or 0, signal.SIGCONT)
        assert polls[0].result()
    assert len(frozen) == 1
    assert watched.store.objects.read(KEYS.manifest("a-good"))
    assert validation_counts(watched.store.objects) == []


def test_liveness_passes_in_validation_and_fails_on_a_hang(
    watched: TaskUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("retrain.watcher.health.time", SimpleNamespace(monotonic=lambda: now[0]))
    upload(watched.store.objects, "a-good", {"train.tar": shard(good())})
    health, frozen, others = Health(["pets"]), list[BaseProcess](), multiprocessing.active_children()
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(TaskWatch(watched.task, Recorder(), health).check_drops)
        freeze_next_child(frozen, poll, others)
        now[0] += 2 * MAX_SILENCE
        alive = health.is_alive()
        os.kill(frozen[0].pid or 0, signal.SIGCONT)
    assert alive
    assert watched.store.objects.read(KEYS.manifest("a-good"))
    assert health.is_alive()
    now[0] += 2 * MAX_SILENCE
    assert not health.is_alive()


def test_many_watchers_quarantine_after_three_killed_validations(
    watched: TaskUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths = tmp_path / "deaths"
    monkeypatch.setattr(ingestion, "validate_drop", partial(die_of_bad_drop, signal.SIGKILL, deaths))
    upload(watched.store.objects, "a-bad", {"train.tar": shard(good())})
    watchers = [watched.watcher(Recorder(), pace=Pace(lease=LEASE)) for _ in range(WATCHERS)]
    with ThreadPoolExecutor(WATCHERS) as pool:
        for _ in range(MAX_ATTEMPTS + 1):
            list(pool.map(lambda watcher: watcher.once(), watchers))
    cause = watched.store.drops.quarantine_causes()["a-bad"]
    assert cause.startswith(
        "3 validations began and never ended; cause of the last: validating drop a-bad: its process was killed"
    )
    assert len(deaths.read_text().splitlines()) == MAX_ATTEMPTS
    assert validation_counts(watched.store.objects) == []


@pytest.mark.parametrize("end", [StoreError("unreachable"), KeyboardInterrupt(), SystemExit()])
def test_error_or_stop_request_resets_the_validation_count(watched: TaskUnderTest, end: BaseException) -> None:
    key = KEYS.validations("a-bad")
    watched.store.objects.write(key, ValidationAttempts(drop="a-bad", begun=2).to_bytes())
    with suppress(type(end)), count_validation(watched.store, "a-bad") as attempts:
        assert attempts.before.begun == 2
        assert ValidationAttempts.model_validate_json(watched.store.objects.read(key)[0]).begun == 3
        raise end
    assert validation_counts(watched.store.objects) == []


@pytest.mark.parametrize("end", [WorkerCrashed("killed"), KeyboardInterrupt(), SystemExit(), None])
def test_validation_without_its_lease_does_not_reset_the_count(store: ObjectStore, end: BaseException | None) -> None:
    with pytest.raises(type(end)) if end else nullcontext(), count_validation(TaskStore(store, "pets"), "a-bad", SHORT):
        move_lease(store, seconds=60)
        time.sleep(2 * SHORT)
        if end:
            raise end
    assert ValidationAttempts.model_validate_json(store.read(KEYS.validations("a-bad"))[0]).begun == 1


class Overtaken(LocalStore):
    """A store that delays the check for quarantine until another process has the lease."""

    def list(self, prefix: str = "") -> Iterator[Entry]:
        found = list(super().list(prefix))
        if prefix == KEYS.quarantine("a-bad"):
            move_lease(self, seconds=60)
            time.sleep(2 * SHORT)
        yield from found


@pytest.mark.parametrize("begun_before", [0, MAX_ATTEMPTS])
def test_frozen_validation_quarantines_nothing_after_takeover(
    watched: TaskUnderTest, tmp_path: Path, begun_before: int
) -> None:
    store = Overtaken(tmp_path / "store")
    upload(store, "a-bad", {"train.tar": b"no tar"})
    store.write(KEYS.validations("a-bad"), ValidationAttempts(drop="a-bad", begun=begun_before).to_bytes())
    problem = Ingestion(watched.task, TaskStore(store, "pets"), Health(["pets"]), lease=SHORT).validate(
        DropStates(ended={"a-bad"})
    )
    assert isinstance(problem, TaskLocked)
    assert "another watcher has taken over" in str(problem)
    assert watched.store.drops.quarantine_causes() == {}
    assert ValidationAttempts.model_validate_json(store.read(KEYS.validations("a-bad"))[0]).begun == begun_before + 1


def test_first_poll_does_not_list_each_drop_separately(
    watched: TaskUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        watched.land(tmp_path / "in", f"d-{number:02d}")
    listed: list[str] = []
    listing = LocalStore.list
    monkeypatch.setattr(LocalStore, "list", lambda store, prefix="": (listed.append(prefix), listing(store, prefix))[1])
    watch = TaskWatch(watched.task, Recorder(), Health(["pets"]))
    watch.check_drops()
    assert watch.oldest == watched.store.drops.read("d-00").committed_at
    assert [prefix for prefix in listed if "d-" in prefix] == [], "no drop has a separate listing"
    watch.advance()
    watched.land(tmp_path / "in", "d-12")
    listed.clear()
    watch.check_drops()
    assert sorted(prefix for prefix in listed if "/drops/" in prefix) == [  # sorted, because several threads list
        f"pets/drops/d-12/{name}" for name in ("_SUCCESS", "drop.json", "quarantine.json")
    ]
