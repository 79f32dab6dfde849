"""Tests of `retrain watch` on a local folder: as a separate process until it is stopped, and with --once."""

import re
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.faulty_s3 import Forward, Reply, Request, faulty
from support.leases import wait_until
from support.processes import preloaded_retrain
from support.programs import free_port
from support.terminal import Ran, retrain
from support.watching import LOCAL_TASK, TaskUnderTest

from retrain.config.loading import load_task
from retrain.store import open_store


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskUnderTest:
    """Return a task with a local store in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    Path("pets.yaml").write_text(LOCAL_TASK)
    return TaskUnderTest(load_task("pets.yaml"))


@contextmanager
def watching(*arguments: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Yield a watcher in a separate process, and the address of its endpoints."""
    command = [preloaded_retrain(), "watch", "--task", "pets.yaml", "--port", "0", "--poll-seconds", "0.2", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            said = re.search(r"http://\S+", process.stderr.readline())
            assert said
            yield process, said[0]
        finally:
            process.kill()


@pytest.fixture
def watch(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Return a function that runs `retrain watch` in this process. The command must end by itself."""
    return lambda *arguments: retrain(["watch", "--task", "pets.yaml", *arguments], capsys)


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_watcher_promotes_a_drop_and_exits_cleanly_on_sigterm(watched: TaskUnderTest, tmp_path: Path) -> None:
    with watching() as (process, url):
        wait_until(lambda: get(f"{url}readyz") == (200, "ok\n"))
        assert get(f"{url}healthz") == (200, "ok\n")
        watched.land(tmp_path / "in", "week-1")
        wait_until(lambda: watched.store.ledger.read())
        wait_until(lambda: 'retrain_watcher_runs_in_flight{task="pets"} 0.0' in get(f"{url}metrics")[1])
        metrics = get(f"{url}metrics")[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=240) == 0
    [record] = watched.store.ledger.read()
    assert record.drops == ("week-1",)
    assert watched.store.champion.read().run_id == record.run_id
    assert 'retrain_watcher_submissions_total{task="pets"} 1.0' in metrics
    assert 'retrain_watcher_lag_seconds{task="pets"} 0.0' in metrics


def test_watch_once_trains_on_a_drop_and_exits(
    watched: TaskUnderTest, tmp_path: Path, watch: Callable[..., Ran]
) -> None:
    watched.land(tmp_path / "in", "week-1")
    once = watch("--once")
    assert (once.code, once.out) == (0, ""), once.err
    [record] = watched.store.ledger.read()
    assert record.outcome == "completed"


def test_watch_once_skips_a_drop_another_watcher_validates(watched: TaskUnderTest) -> None:
    watched.store.objects.write(watched.store.keys.success("week-1"), b"")
    with watched.store.validation("week-1").try_lease():
        command = [preloaded_retrain(), "watch", "--task", "pets.yaml", "--once"]
        once = subprocess.run(command, capture_output=True, text=True)
    assert (once.returncode, once.stdout) == (0, ""), once.stderr
    assert "drop week-1: another watcher is validating it" in once.stderr
    assert not list(watched.store.objects.list(watched.store.keys.quarantine("week-1")))


def test_watcher_with_a_removed_store_is_alive_but_not_ready(watched: TaskUnderTest) -> None:
    with watching() as (_, url):
        wait_until(lambda: get(f"{url}readyz")[0] == 200)
        shutil.rmtree("store")
        Path("store").write_text("no folder")
        wait_until(lambda: get(f"{url}readyz")[0] == 503)
        assert "pets: store: pets/" in get(f"{url}readyz")[1]
        assert get(f"{url}healthz")[0] == 200
        assert get(f"{url}elsewhere")[0] == 404


def ignores_conditions(request: Request, forward: Forward) -> Reply:
    """Forward a request without its conditions."""
    request.headers = {name: value for name, value in request.headers.items() if not name.startswith("If-")}
    return forward(request)


def test_watch_refuses_a_server_without_conditional_writes(
    watched: TaskUnderTest, bucket: str, s3: str, watch: Callable[..., Ran]
) -> None:
    with faulty(s3, ignores_conditions) as proxy:
        refused = watch("--once", "--set", f"store=s3://{bucket}", "--set", f"endpoint_url={proxy}")
    assert refused.code == 2
    assert "the server ignores If-None-Match" in refused.err
    assert "Traceback" not in refused.err


def test_watch_serves_other_tasks_while_a_store_is_unreachable(watched: TaskUnderTest, tmp_path: Path) -> None:
    Path("lost.yaml").write_text(f"name: lost\nstore: s3://lost\nendpoint_url: http://127.0.0.1:{free_port()}\n")
    watched.land(tmp_path / "in", "week-1")
    command = [preloaded_retrain(), "watch", "--task", "lost.yaml", "--task", "pets.yaml", "--once"]
    once = subprocess.run(command, capture_output=True, text=True)
    assert once.returncode == 1
    assert "the server cannot be reached" in once.stderr
    assert [record.drops for record in watched.store.ledger.read()] == [("week-1",)]


def test_store_without_conditional_writes_is_not_worked_on(
    watched: TaskUnderTest, bucket: str, s3: str, watch: Callable[..., Ran], caplog: pytest.LogCaptureFixture
) -> None:
    objects = open_store(f"s3://{bucket}", s3)
    with faulty(s3, ignores_conditions) as proxy:
        settings = f"store: s3://{bucket}\nendpoint_url: {proxy}\n"
        Path("unsafe.yaml").write_text(f"name: unsafe\n{settings}")
        objects.write("unsafe/drops/week-1/_SUCCESS", b"")
        once = watch("--task", "unsafe.yaml", "--once")
    assert once.code == 1
    assert "unsafe: s3://" in caplog.text
    assert "the server ignores If-None-Match" in caplog.text
    assert [entry.key for entry in objects.list("")] == ["unsafe/drops/week-1/_SUCCESS"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--schedule", "never"), "--schedule: schedule: must be five cron fields"),
        (("--on", "kubeflow", "--set", "resources.nodes=2"), "resources.nodes: a pipeline trains on one"),
        (("--on", "kubeflow", "--set", "model.options.rate=1.0"), "model.options.rate: 1.0 would arrive as 1"),
        (("--host", "somewhere"), "kubeflow.host: is not valid"),
        (("--port", "1", "--listen", "203.0.113.1"), "cannot listen on 203.0.113.1:1"),
    ],
)
def test_wrong_option_of_watch_gives_one_message(
    watched: TaskUnderTest, arguments: tuple[str, ...], message: str, watch: Callable[..., Ran]
) -> None:
    refused = watch(*arguments)
    assert refused.code == 2
    assert message in refused.err
    assert "Traceback" not in refused.err
