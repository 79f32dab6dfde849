"""The watcher and the exporter work without torch, as in the slim image."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support import known_ledger
from support.kfp_server import serving
from support.pictures import png
from support.programs import free_port
from support.uploads import upload
from support.watching import DATA, TaskUnderTest

from retrain.config.resources import Kubeflow
from retrain.config.task import Model, Task
from retrain.store import LocalStore

RETRAIN = (sys.executable, "-m", "retrain")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which no process can import torch or torchvision."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text("import sys\nsys.modules.update(torch=None, torchvision=None)\n")
    path = os.pathsep.join(filter(None, [str(blocked), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "NO_PROXY": "127.0.0.1", "RETRAIN_CACHE": str(tmp_path / "cache")}


def test_watcher_without_torch_validates_and_submits(tmp_path: Path, environment: dict[str, str]) -> None:
    with serving() as kfp:
        task = Task(
            name="pets",
            store=str(tmp_path / "store"),
            data=DATA,
            model=Model(name="logistic"),
            kubeflow=Kubeflow(host=kfp.url),
        )
        file = tmp_path / "pets.yaml"
        file.write_text(task.model_dump_json())
        watched = TaskUnderTest(task)
        images = {f"{('cat', 'dog')[number % 2]}/{number}.png": png(number) for number in range(40)}
        upload(watched.store.objects, "a", images)  # the watcher packs them into shards
        command = [*RETRAIN, "watch", "--task", str(file), "--once", "--on", "kubeflow"]

        def watch() -> None:
            ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
            assert ended.returncode == 0, ended.stderr

        watch()
        assert watched.store.drops.read("a").samples("train")
        [run_id] = kfp.names
        kfp.runs[0]["state"] = "FAILED"
        watch()
        record = watched.store.ledger.find(run_id)
        assert record
        assert record.outcome == "failed"


def test_exporter_without_torch_serves_metrics_and_pages(tmp_path: Path, environment: dict[str, str]) -> None:
    store = LocalStore(tmp_path / "store")
    known_ledger.write(store, known_ledger.pets())
    file, port = tmp_path / "pets.yaml", free_port()
    file.write_text(f"name: pets\nstore: {tmp_path / 'store'}\n")
    command = [*RETRAIN, "exporter", "--task", str(file), "--port", str(port)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            metrics = read(f"http://127.0.0.1:{port}/metrics", process)
            assert 'retrain_ledger_records{task="pets"}' in metrics
            assert "<svg" in read(f"http://127.0.0.1:{port}/", process)
        finally:
            process.kill()


def test_command_that_needs_torch_names_the_other_image(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "pets.yaml").write_text(f"name: pets\nstore: {tmp_path / 'store'}\n")
    command = [*RETRAIN, "run", "--task", str(tmp_path / "pets.yaml")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 2
    assert (
        ended.stderr
        == "retrain: this command needs torch, but it is missing: use the container image whose tag has no -slim\n"
    )


def read(url: str, process: "subprocess.Popen[str]") -> str:
    """Return the reply of an address, as soon as its server listens."""
    while process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=120) as reply:
                return reply.read().decode()
        except urllib.error.HTTPError:
            raise
        except (urllib.error.URLError, ConnectionError):  # the server does not listen yet
            time.sleep(0.1)
    raise AssertionError(process.stderr and process.stderr.read())
