"""The predictor in k8s/examples/kserve, over HTTP."""

import base64
import io
import json
import runpy
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from lives import Life, make_task
from PIL import Image
from rendered import ROOT
from trainings import pixels

from retrain import registry, stages
from retrain.planning import Request
from retrain.store import LocalStore

SERVE = runpy.run_path(str(ROOT / "k8s" / "examples" / "kserve" / "serve.py"))


@contextmanager
def serving(champion: Any) -> Iterator[str]:
    """The address of the predictor."""
    server = SERVE["server"]("pets", champion, 0)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/models/pets"
    server.shutdown()
    thread.join()
    server.server_close()


def ask(url: str, *images: bytes) -> dict[str, Any]:
    body = json.dumps({"instances": [{"image": {"b64": base64.b64encode(image).decode()}} for image in images]})
    with urllib.request.urlopen(f"{url}:predict", body.encode()) as answer:
        document: dict[str, Any] = json.load(answer)
    return document


def png(label: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(torch.tensor([label]), seed=9)[0].permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def test_the_kserve_example_serves_the_champion_and_follows_a_promotion(tmp_path: Path) -> None:
    life = Life(LocalStore(tmp_path / "store"), tmp_path)
    life.land(0, 1, seed=1)
    stages.run(life.context, make_task(), Request())
    champion = SERVE["Champion"](life.store, life.layout)
    first = registry.read(life.store, life.layout).run_id
    with serving(champion) as url:
        answer = ask(url, png(0), png(1))
        assert [prediction["class"] for prediction in answer["predictions"]] == ["class-0", "class-1"]
        assert answer["model"] == first
        life.land(2, seed=2)
        stages.run(life.context, make_task(), Request())
        champion.refresh()
        answer = ask(url, png(2))
        assert answer["predictions"][0]["class"] == "class-2"
        assert answer["model"] == registry.read(life.store, life.layout).run_id != first
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask(url, b"no image")
        for length in ("16777217", "-1", "1e3"):
            request = urllib.request.Request(f"{url}:predict", b"{}", {"Content-Length": length})
            with pytest.raises(urllib.error.HTTPError, match="413"):
                urllib.request.urlopen(request, timeout=10)
