"""The watcher and the exporter work where torch is not installed: the slim image has none."""

import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from support.kfp_server import serving
from support.uploads import good, shard, upload
from support.watching import DATA, Place

from retrain.config.resources import Kubeflow
from retrain.config.task import Model, Task

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
        place = Place(task)
        upload(place.store.objects, "a", {"train-0.tar": shard(good())})
        command = [*RETRAIN, "watch", "--task", str(file), "--once", "--on", "kubeflow"]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert ended.returncode == 0, ended.stderr
        assert place.store.drops.read("a").samples("train")
        [run] = kfp.names
        assert run
