"""KServe's clients get answers from the example that uses KServe's SDK, and from `retrain serve`."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from serving.test_serve import ask, ask_until_promoted, infer, serving
from support.kserve_sdk import (
    EXAMPLE,
    PYTHON,
    Addresses,
    ask_with_kserve,
    environment,
    serving_with_kserve,
    skip_without_kserve,
)
from support.monitoring import samples
from support.served import Served, make_served

from retrain.api import load_champion


@pytest.fixture(scope="module", autouse=True)
def kserve() -> None:
    """Skip this file if KServe is not installed."""
    skip_without_kserve()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return make_served(tmp_path_factory.mktemp("kserve"), 0, 1)


@pytest.fixture(scope="module")
def server(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    with serving_with_kserve(served.file, tmp_path_factory.mktemp("log") / "log") as addresses:
        yield addresses


def test_kserve_example_answers_the_sdks_clients(served: Served, server: Addresses) -> None:
    images = sorted(served.images(0, 1).rglob("*.png"))
    expected = load_champion(served.file).predict(list(images))
    answers = ask_with_kserve("pets", server.url, server.grpc, images)
    assert (answers["live"], answers["ready"], answers["grpc_ready"]) == (True, True, True)
    for kind in ("json", "grpc"):
        assert answers[kind]["labels"] == expected.labels
        for row, expected_row in zip(answers[kind]["probabilities"], expected.probabilities.tolist(), strict=True):
            assert row == pytest.approx(expected_row, abs=1e-6)


def test_retrain_serve_answers_the_sdks_client(served: Served) -> None:
    images = sorted(served.images(0, 1).rglob("*.png"))
    with serving(served, every=3600) as url:
        answers = ask_with_kserve("pets", url, "", images)
    assert (answers["live"], answers["ready"]) == (True, True)
    assert answers["json"]["labels"] == load_champion(served.file).predict(list(images)).labels


def test_kserve_example_serves_metadata_and_metrics(served: Served, server: Addresses) -> None:
    model = load_champion(served.file).run_id
    answer = infer(server.url, served.test_files()[:2])  # the SDK's clients do not return the version
    assert answer["model_version"] == model
    metadata = ask(f"{server.url}/v2/models/pets")
    assert [one["name"] for one in (*metadata["inputs"], *metadata["outputs"])] == ["images", "labels", "probabilities"]
    with urlopen(f"{server.url}/metrics") as page:
        values = samples(page.read().decode())
    assert values["retrain_serving_model_info", frozenset({("task", "pets"), ("model", model)})] == 1
    assert values["retrain_serving_images_total", frozenset({("task", "pets")})] >= 2
    assert values["request_predict_seconds_count", frozenset({("model_name", "pets")})] >= 1


@pytest.mark.parametrize(("file", "message"), [(b"no image", "cannot be decoded"), (b"", "cannot be decoded")])
def test_kserve_example_refuses_invalid_images(server: Addresses, file: bytes, message: str) -> None:
    with pytest.raises(HTTPError) as refused:
        infer(server.url, [file])
    assert refused.value.code == 400
    assert message in refused.value.read().decode()


COUNT_ERRORS = """
import asyncio, runpy, sys
from kserve.protocol.infer_type import InferInput, InferRequest
from prometheus_client import REGISTRY
from retrain.inference.loading import find_source

example, file, image = sys.argv[1:]
server = runpy.run_path(example)["Champion"](find_source(file), "cpu", 3600)
server._champion.model.network.register_forward_pre_hook(lambda network, inputs: 1 / 0)
for elements in ([open(image, "rb").read()], [b"no image"], ["?"]):
    tensor = InferInput("images", [1], "BYTES", elements)
    try:
        asyncio.run(server.predict(InferRequest("pets", [tensor])))
    except Exception as error:
        code = {"ZeroDivisionError": "500"}.get(type(error).__name__, "400")
        print(code, REGISTRY.get_sample_value("retrain_serving_requests_total", {"task": "pets", "code": code}))
"""


def test_kserve_example_counts_errors_by_their_kind(served: Served) -> None:
    image = next(served.images(0).rglob("*.png"))
    command = [str(PYTHON), "-c", COUNT_ERRORS, str(EXAMPLE), served.file, str(image)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert ran.stdout == "500 1\n400 1\n400 2\n", ran.stderr


def test_kserve_example_answers_all_requests_at_a_promotion(tmp_path: Path) -> None:
    served = make_served(tmp_path, 0, 1)
    with serving_with_kserve(served.file, tmp_path / "log") as addresses:
        ask_until_promoted(served, addresses.url)
