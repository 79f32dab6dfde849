"""Watchers in separate processes: several at the same time, a suspended watcher, and a long outage of Kubeflow."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.kfp_server import KfpServer, serving
from support.leases import wait_until
from support.processes import preloaded_python
from support.programs import python_environment
from support.watching import TaskUnderTest, on_s3
from support.writes import is_stopped

from retrain.cli.pipeline import build_pipeline
from retrain.config.task import Task
from retrain.kubeflow import submission
from retrain.kubeflow.records import Submission
from retrain.kubeflow.submission import KubeflowExecutor
from retrain.records import Plan
from retrain.store import ObjectStore
from retrain.store.task_store import TaskStore
from retrain.watcher.task_watch import Pace

RETRY = 0.5
"""Seconds between two attempts to start a run."""


class FreezingStore:
    """A store that stops this process before each write."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def write(self, key: str, data: bytes) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        self._store.write(key, data)


class FrozenExecutor(KubeflowExecutor):
    """An executor whose process is stopped before it records a submission."""

    def ensure(self, task: Task, plan: Plan, store: TaskStore) -> bool:
        return super().ensure(task, plan, TaskStore(FreezingStore(store.objects), store.task))


def poll_three_times(watched: TaskUnderTest) -> None:
    watcher = watched.watcher(KubeflowExecutor(build_pipeline))
    print("ready", flush=True)
    sys.stdin.readline()
    assert [watcher.once() for _ in range(3)] == [True] * 3


def poll_and_freeze(watched: TaskUnderTest) -> None:
    print(os.getpid(), flush=True)
    assert not watched.watcher(FrozenExecutor(build_pipeline), pace=Pace(lease=1)).once()


def watch(watched: TaskUnderTest) -> None:
    logging.basicConfig(format="%(created)f %(message)s")
    watched.watcher(
        KubeflowExecutor(build_pipeline), pace=Pace(lease=60, check=RETRY, retry=RETRY), poll_seconds=0.1
    ).run()


@contextmanager
def in_process(
    function: Callable[[TaskUnderTest], None], bucket: str, s3: str, host: str
) -> Iterator[subprocess.Popen[str]]:
    """Call a function of this module on the store in a separate process, and yield the process."""
    code = (
        "import sys; sys.path.append('watcher'); import test_watchers_apart as here; "
        "getattr(here, sys.argv[1])(here.on_s3(*sys.argv[2:]))"
    )
    command = [preloaded_python(), "-c", code, function.__name__, bucket, s3, host]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=python_environment(), text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def kfp() -> Iterator[KfpServer]:
    with serving() as server:
        yield server


@pytest.fixture
def watched(bucket: str, s3: str, kfp: KfpServer, tmp_path: Path) -> TaskUnderTest:
    """Return a task with a committed drop."""
    watched = on_s3(bucket, s3, kfp.url)
    watched.land(tmp_path / "in", "a")
    return watched


def test_only_one_of_three_racing_watchers_submits_a_run(
    watched: TaskUnderTest, bucket: str, s3: str, kfp: KfpServer
) -> None:
    with ExitStack() as stack:
        racing = [stack.enter_context(in_process(poll_three_times, bucket, s3, kfp.url)) for _ in range(3)]
        for watcher in racing:
            assert watcher.stdout
            assert watcher.stdout.readline() == "ready\n"
        for watcher in racing:
            assert watcher.stdin
            watcher.stdin.write("go\n")
            watcher.stdin.flush()
        ended = [watcher.communicate() for watcher in racing]
        assert [watcher.returncode for watcher in racing] == [0] * 3, ended
    assert kfp.names == [watched.owners()["a"]]


def test_watcher_suspended_past_its_lease_cannot_write(
    watched: TaskUnderTest, bucket: str, s3: str, kfp: KfpServer
) -> None:
    with in_process(poll_and_freeze, bucket, s3, kfp.url) as frozen:
        assert frozen.stdout
        pid = int(frozen.stdout.readline())
        while not is_stopped(pid):
            assert frozen.poll() is None, frozen.communicate()[1]
            time.sleep(0.02)
        assert kfp.names == []
        successor = watched.watcher(KubeflowExecutor(build_pipeline))
        wait_until(lambda: successor.once() and kfp.names)
        os.kill(pid, signal.SIGCONT)
        errors = frozen.communicate()[1]
        assert frozen.returncode == 0, errors
        assert "another process has taken the lease" in errors
    [run] = kfp.runs
    assert run["display_name"] == watched.owners()["a"]
    bound = submission.read_submission(watched.store, run["display_name"])
    assert bound == Submission(run_id=run["display_name"], job=run["run_id"])


def test_long_api_server_outage_only_delays_the_run(
    watched: TaskUnderTest, bucket: str, s3: str, kfp: KfpServer
) -> None:
    kfp.down = True
    with in_process(watch, bucket, s3, kfp.url) as watcher:
        assert watcher.stderr
        failed: list[float] = []
        while len(failed) < 3:
            line = watcher.stderr.readline()
            assert line, "the watcher has ended"
            if "cannot be reached" in line:
                failed.append(float(line.split()[0]))
        assert list(watched.owners()) == ["a"]
        assert failed[-1] - failed[0] >= RETRY, "the watcher waits before it retries"
        assert kfp.refused > len(failed), "the client also retries each request"
        kfp.down = False
        wait_until(lambda: kfp.names)
        time.sleep(3 * RETRY)
    assert kfp.names == [watched.owners()["a"]]
