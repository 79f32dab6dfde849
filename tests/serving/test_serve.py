"""`retrain serve` as a real server in a separate process, over HTTP."""

import asyncio
import base64
import json
import os
import re
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import typer
import yaml
from support.monitoring import samples, wait_for
from support.processes import preloaded_retrain
from support.rendered import ROOT
from support.served import Served, make_served
from support.terminal import retrain

from retrain.api import load_champion
from retrain.cli import app
from retrain.inference.loading import find_source
from retrain.serving import champion
from retrain.serving.app import make_app
from retrain.serving.champion import FollowedChampion
from retrain.serving.counts import Counts
from retrain.serving.server import GRACE_SECONDS
from retrain.utils import extras


@contextmanager
def serving(served: Served, every: float = 0.1) -> Iterator[str]:
    """Yield the address of a server of the task's champion. The server must exit with 0 after SIGTERM."""
    command = [preloaded_retrain(), "serve", "-t", served.file, "--port", "0", "--every", str(every), "--device", "cpu"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as server:
        assert server.stdout is not None
        try:
            found = re.fullmatch(r"serving on (http://127\.0\.0\.1:\d+)/predict\n", server.stdout.readline())
            assert found
            yield found[1]
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=240) == 0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return make_served(tmp_path_factory.mktemp("serve"), 0, 1, 2)


@pytest.fixture(scope="module")
def address(served: Served) -> Iterator[str]:
    with serving(served, every=3600) as url:
        yield url


def ask(url: str, body: bytes | None = None) -> Any:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def infer(url: str, files: list[bytes]) -> Any:
    data = [base64.b64encode(file).decode() for file in files]
    tensor = {"name": "images", "datatype": "BYTES", "shape": [len(data)], "data": data}
    return ask(f"{url}/v2/models/pets/infer", json.dumps({"id": "7", "inputs": [tensor]}).encode())


def test_server_agrees_with_the_api_on_the_test_split(served: Served, address: str) -> None:
    files, model = served.test_files(), load_champion(served.file)
    expected = model.predict(files)
    answer = infer(address, files)
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("pets", model.run_id, "7")
    labels, probabilities = answer["outputs"]
    assert labels["data"] == expected.labels
    assert probabilities["shape"] == [len(files), 3]
    assert probabilities["data"] == pytest.approx(expected.probabilities.flatten().tolist(), abs=1e-6)
    singles = [ask(f"{address}/predict", file) for file in files]
    assert [single["class"] for single in singles] == expected.labels
    assert {single["model"] for single in singles} == {model.run_id}
    assert [one["class"] for one in singles[0]["top"]] == [one.label for one in expected.top()[0]]


def test_health_metadata_and_metrics_are_served(served: Served, address: str) -> None:
    ask(f"{address}/predict", served.test_files()[0])
    assert ask(f"{address}/v2/health/live") == {"live": True}
    assert ask(f"{address}/v2/models/pets/ready") == {"name": "pets", "ready": True}
    metadata = ask(f"{address}/v2/models/pets")
    assert metadata["parameters"] == {"classes": ["class-0", "class-1", "class-2"]}
    assert metadata["versions"] == [load_champion(served.file).run_id]
    assert ask(f"{address}/v2")["name"] == "retrain"
    with urllib.request.urlopen(f"{address}/metrics") as answer:
        values = samples(answer.read().decode())
    task = ("task", "pets")
    assert values["retrain_serving_model_info", frozenset({task, ("model", metadata["versions"][0])})] == 1
    assert values["retrain_serving_requests_total", frozenset({task, ("code", "200")})] >= 1
    assert values["retrain_serving_images_total", frozenset({task})] >= 1


@pytest.mark.parametrize(
    ("path", "body", "code", "message"),
    [
        ("/predict", b"no image", 400, "cannot be decoded"),
        ("/predict", b"0" * (1 << 24) + b"0", 413, "send fewer images per request"),
        ("/v2/models/pets/infer", b"{", 400, "Invalid JSON"),
        ("/v2/models/pets/infer", b'{"inputs": []}', 400, "inputs: "),
        (
            "/v2/models/pets/infer",
            b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": ["aa"]}]}',
            400,
            "must be of datatype BYTES",
        ),
        (
            "/v2/models/pets/infer",
            b'{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["?"]}]}',
            400,
            "not base64",
        ),
        (
            "/v2/models/pets/infer",
            '{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["é"]}]}'.encode(),
            400,
            "not base64",
        ),
        ("/v2/models/dogs/infer", b"{}", 404, ""),
    ],
)
def test_bad_requests_are_refused_with_a_message(address: str, path: str, body: bytes, code: int, message: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(address + path, body)
    assert refused.value.code == code
    assert message in refused.value.read().decode()
    assert ask(f"{address}/v2/health/ready") == {"ready": True}


def test_form_is_refused_with_advice_on_the_body(address: str) -> None:
    """Send a form, as `curl -F` does, instead of an image file."""
    form = urllib.request.Request(f"{address}/predict", b"--x\r\n", {"Content-Type": "multipart/form-data; boundary=x"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(form, timeout=60)
    assert refused.value.code == 400
    assert "the body is a form: send only the image file" in json.load(refused.value)["error"]


def test_server_answers_all_requests_at_a_promotion(tmp_path: Path) -> None:
    served = make_served(tmp_path, 0, 1)
    with serving(served) as url:
        ask_until_promoted(served, url)
        assert "class-2" in ask(f"{url}/v2/models/pets")["parameters"]["classes"]


def ask_until_promoted(served: Served, url: str) -> None:
    """Promote another model while two clients send requests.

    Check that every request is answered, first by the old model and then by the new one.
    """
    files, first = served.test_files()[:2], load_champion(served.file).run_id
    stop = Event()

    def keep_asking() -> list[str]:
        versions = []
        while not stop.is_set():
            versions.append(str(infer(url, files)["model_version"]))
        return versions

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(keep_asking) for _ in range(2)]
        try:
            served.workspace.land(2, seed=2)
            second = served.retrain().run_id
            wait_for(lambda: infer(url, files)["model_version"] == second or None, "the new champion")
        finally:
            stop.set()
        for versions in (future.result() for future in asked):
            assert versions[0] == first
            assert versions == sorted(versions, key=[first, second].index)


def load_errors(counts: Counts) -> float:
    return next(one.samples[0].value for one in counts.collect() if one.name == "retrain_serving_load_errors")


def test_old_model_is_served_while_the_new_one_cannot_be_loaded(tmp_path: Path) -> None:
    served = make_served(tmp_path, 0, 1)
    counts = Counts("pets")
    champion = FollowedChampion(find_source(served.task), "cpu", counts)
    first = champion.model
    served.workspace.land(2, seed=2)
    second = served.retrain().run_id
    key = served.workspace.store.keys.run(second, "model.safetensors")
    weights, _ = served.workspace.store.objects.read(key)
    served.workspace.store.objects.write(key, b"torn")
    champion.start(every=0.01)
    wait_for(lambda: load_errors(counts) or None, "a failed load of the damaged model")
    assert champion.model is first
    served.workspace.store.objects.write(key, weights)
    wait_for(lambda: champion.model.run_id == second or None, "the repaired model")
    champion.stop()


def test_server_follows_the_champion_after_any_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network's factory is a user's code, and may raise any error."""
    served = make_served(tmp_path, 0, 1)
    counts = Counts("pets")
    followed = FollowedChampion(find_source(served.task), "cpu", counts)
    served.workspace.land(2, seed=2)
    second = served.retrain().run_id
    monkeypatch.setattr(champion, "load_model", lambda *arguments: 1 / 0)
    followed.start(every=0.01)
    wait_for(lambda: load_errors(counts) or None, "a failed load")
    monkeypatch.undo()
    wait_for(lambda: followed.model.run_id == second or None, "the new model")
    followed.stop()


def test_server_ends_while_the_store_does_not_answer(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a FIFO that has no writer blocks, as a network file system without a server does."""
    monkeypatch.setattr(champion, "STOP_SECONDS", 0.01)
    followed = FollowedChampion(find_source(served.task), "cpu", Counts("pets"))
    pointer = Path(served.workspace.store.url) / "pets" / "champion.json"
    pointer.rename(tmp_path / "champion.json")
    os.mkfifo(pointer)
    try:
        followed.start(every=0.01)
        writer = os.open(pointer, os.O_WRONLY)  # returns when the check for a new champion has opened the FIFO
        followed.stop()
    finally:
        os.close(writer)
        (tmp_path / "champion.json").replace(pointer)


def counted_requests(counts: Counts) -> list[tuple[str, float]]:
    requests = next(one for one in counts.collect() if one.name == "retrain_serving_requests")
    return [(one.labels["code"], one.value) for one in requests.samples]


def call_app(
    champion: FollowedChampion, counts: Counts, event: MutableMapping[str, Any], sent: list[MutableMapping[str, Any]]
) -> None:
    """Send one event of a request for a prediction to the application, and add its answer's messages to `sent`."""

    async def receive() -> MutableMapping[str, Any]:
        return event

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [], "query_string": b""}
    asyncio.run(make_app("pets", champion, counts)(scope, receive, send))


def test_request_that_ends_with_an_error_is_counted(served: Served) -> None:
    counts = Counts("pets")
    champion = FollowedChampion(find_source(served.task), "cpu", counts)
    champion.model.network.register_forward_pre_hook(lambda network, inputs: 1 / 0)
    body = next(served.images(0).rglob("*.png")).read_bytes()
    sent: list[MutableMapping[str, Any]] = []
    with pytest.raises(ZeroDivisionError):
        call_app(champion, counts, {"type": "http.request", "body": body}, sent)
    assert sent[0]["status"] == 500
    assert counted_requests(counts) == [("500", 1)]


def test_client_that_leaves_early_is_no_error(served: Served) -> None:
    """An error would write a traceback to the log for each of these clients."""
    counts = Counts("pets")
    champion = FollowedChampion(find_source(served.task), "cpu", counts)
    call_app(champion, counts, {"type": "http.disconnect"}, [])
    assert counted_requests(counts) == []


def test_serve_that_cannot_start_gives_one_message(
    served: Served, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pets.yaml").write_text(json.dumps({"name": "pets", "store": str(tmp_path / "store")}))
    ran = retrain(["serve", "-t", str(tmp_path / "pets.yaml")], capsys)
    assert (ran.code, "task pets has no champion yet" in ran.err) == (2, True)
    taken = subprocess.run(
        [preloaded_retrain(), "serve", "-t", served.file, "--port", address.rpartition(":")[2]],
        capture_output=True,
        text=True,
    )
    assert taken.returncode == 2
    assert "pass another --port or --listen" in taken.stderr
    assert "Traceback" not in taken.stderr
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    ran = retrain(["serve", "-t", served.file], capsys)
    assert "`retrain serve` needs starlette: pip install 'retrain-classifiers[serve]'" in ran.err


def read_predictor() -> Any:
    """Return the predictor of the example for KServe."""
    documents = yaml.safe_load_all((ROOT / "k8s" / "examples" / "kserve" / "inferenceservice.yaml").read_text())
    return next(document for document in documents if document["kind"] == "InferenceService")["spec"]["predictor"]


def test_server_ends_before_kubernetes_kills_it() -> None:
    """A client that never completes its request delays the end by the whole period of grace."""
    default = 30  # seconds
    period = read_predictor().get("terminationGracePeriodSeconds", default)
    assert period > GRACE_SECONDS + champion.STOP_SECONDS


def test_kserve_example_calls_an_existing_command() -> None:
    (container,) = read_predictor()["containers"]
    group = typer.main.get_command(app)
    context = group.make_context("retrain", container["args"][:1])
    command, subcommand, rest = group.resolve_command(context, container["args"])
    assert subcommand is not None
    parsed = subcommand.make_context(command, rest, parent=context).params
    (port,) = container["ports"]
    assert (parsed["task"], parsed["port"], parsed["listen"]) == ("flowers", port["containerPort"], "0.0.0.0")
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/models/flowers/ready"
