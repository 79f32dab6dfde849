"""The predictor in k8s/examples/kserve, over HTTP."""

import base64
import io
import json
import runpy
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save
from support import monitoring
from support.lives import Life, make_task
from support.rendered import ROOT
from support.trainings import pixels

from retrain.pipeline import stages
from retrain.pipeline.planning import Request
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
    stages.run_task(life.context, make_task(), Request())
    champion = SERVE["Champion"](life.store)
    first = life.store.champion.read().run_id
    with serving(champion) as url:
        answer = ask(url, png(0), png(1))
        assert [prediction["class"] for prediction in answer["predictions"]] == ["class-0", "class-1"]
        assert answer["model"] == first
        life.land(2, seed=2)
        stages.run_task(life.context, make_task(), Request())
        champion.refresh()
        answer = ask(url, png(2))
        assert answer["predictions"][0]["class"] == "class-2"
        assert answer["model"] == life.store.champion.read().run_id != first
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask(url, b"no image")
        for length in ("16777217", "-1", "1e3"):
            request = urllib.request.Request(f"{url}:predict", b"{}", {"Content-Length": length})
            with pytest.raises(urllib.error.HTTPError, match="413"):
                urllib.request.urlopen(request, timeout=10)


@contextmanager
def following(life: Life, every: float) -> Iterator[Any]:
    """A predictor's champion, followed within."""
    stopped = Event()

    class Champion(SERVE["Champion"]):  # type: ignore[misc]  # a class of the example's
        def refresh(self) -> None:
            if stopped.is_set():
                raise SystemExit
            super().refresh()

    def follow() -> None:
        with suppress(SystemExit):
            champion.follow()

    champion, thread = Champion(life.store), Thread(target=follow)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SERVE["Champion"].follow.__globals__, "EVERY_SECONDS", every)
        thread.start()
        try:
            yield champion
        finally:
            stopped.set()
            thread.join()


def test_a_champion_that_cannot_be_loaded_leaves_the_old_one_until_it_can(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    life = Life(LocalStore(tmp_path / "store"), tmp_path)
    life.land(0, 1, seed=1)
    first = stages.run_task(life.context, make_task(), Request()).run_id
    said: list[str] = []

    def says(what: str) -> bool:
        said.append(capsys.readouterr().out)
        return what in "".join(said)

    with following(life, 0.02) as champion, serving(champion) as url:
        pointer = life.store.objects.read(life.store.keys.champion)[0]
        life.store.objects.write(life.store.keys.champion, b"{")
        monitoring.wait_for(lambda: says("was not written by this version of retrain"), "the torn pointer")
        assert ask(url, png(0))["model"] == first
        life.store.objects.write(life.store.keys.champion, pointer)
        life.land(2, seed=2)
        second = stages.train(life.context, stages.plan(life.context, make_task(), Request()))
        files = life.context.files(second.run_id)
        whole, result = (
            life.store.objects.read(life.store.keys.run(second.run_id, "model.safetensors"))[0],
            files.result(),
        )
        assert result
        other = save({"other": torch.zeros(1)})
        files.write_result(result.model_copy(update={"model_digest": sha256(other).hexdigest()}))
        life.store.objects.write(life.store.keys.run(second.run_id, "model.safetensors"), other)
        life.store.champion.swap(life.store.champion.read(), second.run_id, "promoted by hand")
        monitoring.wait_for(lambda: says(f"the model of {second.run_id} does not fit logistic"), "a model of no use")
        assert ask(url, png(0))["model"] == first
        life.store.objects.write(life.store.keys.run(second.run_id, "model.safetensors"), whole)
        files.write_result(result)
        monitoring.wait_for(lambda: ask(url, png(0))["model"] == second.run_id, "the model that is whole again")
