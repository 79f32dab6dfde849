"""Replies of Kubeflow's Model Registry that the export relies on.

The expected replies were recorded from a real server. The tests send the requests to a simulated server, and to a real
server if one is available.
"""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from support.model_registry import REGISTRIES, ask, open_registry

Ask = Callable[..., tuple[int, Any]]
TEXT = {"metadataType": "MetadataStringValue", "string_value": "r1"}
NUMBER = {"metadataType": "MetadataDoubleValue", "double_value": 0.5}
WHOLE = {"metadataType": "MetadataIntValue", "int_value": "3"}


@pytest.fixture(params=REGISTRIES)
def send(request: pytest.FixtureRequest) -> Iterator[Ask]:
    """Yield a function that sends one request."""
    with open_registry(request.param) as address:
        yield lambda method, path, body=None, **query: ask(address, method, path, body, **query)


@pytest.fixture
def name() -> str:
    return f"pets-{uuid4().hex}"


@pytest.fixture
def model(send: Ask, name: str) -> str:
    """Return the id of a registered model."""
    status, model = send("POST", "registered_models", {"name": name, "owner": "retrain"})
    assert (status, model["state"], model["customProperties"]) == (201, "LIVE", {})
    return str(model["id"])


@pytest.fixture
def version(send: Ask, model: str) -> str:
    """Return the id of an archived version with a property."""
    body = {"name": "r1", "registeredModelId": model, "state": "ARCHIVED", "customProperties": {"a": NUMBER}}
    status, version = send("POST", "model_versions", body)
    assert (status, version["state"], version["customProperties"]) == (201, "ARCHIVED", {"a": NUMBER})
    return str(version["id"])


def test_missing_resources_give_status_404(send: Ask, name: str, model: str) -> None:
    replies = [
        send("GET", "registered_model", name=f"{name}-x"),
        send("GET", "model_version", name="r1", parentResourceId=model),
        send("GET", "model_artifact", name="r1", parentResourceId=model),
        send("PATCH", "model_versions/999999", {"state": "LIVE"}),
        send("POST", "model_versions/999999/artifacts", {"artifactType": "model-artifact", "name": "r1"}),
    ]
    assert [(status, reply["code"]) for status, reply in replies] == [(404, "Not Found")] * 5
    assert replies[0][1]["message"] == f"no registered models found for name={name}-x, externalId=: not found"
    assert send("GET", "nonsense") == (404, "404 page not found\n")


def test_names_are_unique_within_their_parent(send: Ask, name: str, model: str, version: str) -> None:
    artifact = {"artifactType": "model-artifact", "name": "r1", "uri": "s3://bucket/model"}
    assert send("POST", f"model_versions/{version}/artifacts", artifact)[0] == 201
    replies = [
        send("POST", "registered_models", {"name": name}),
        send("POST", "model_versions", {"name": "r1", "registeredModelId": model}),
        send("POST", f"model_versions/{version}/artifacts", artifact),
    ]
    assert [(status, reply["code"]) for status, reply in replies] == [(409, "Conflict")] * 3
    other = send("POST", "registered_models", {"name": f"{name}-x"})[1]["id"]
    assert send("POST", "model_versions", {"name": "r1", "registeredModelId": other})[0] == 201


def test_resources_are_found_by_name_and_parent(send: Ask, name: str, model: str, version: str) -> None:
    artifact = {"artifactType": "model-artifact", "name": "r1", "uri": "s3://bucket/model", "state": "LIVE"}
    made = send("POST", f"model_versions/{version}/artifacts", artifact | {"modelFormatName": "safetensors"})[1]
    assert made.items() >= (artifact | {"modelFormatName": "safetensors"}).items()
    assert send("GET", "registered_model", name=name)[1]["id"] == model
    assert send("GET", "model_version", name="r1", parentResourceId=model)[1]["id"] == version
    assert send("GET", "model_artifact", name="r1", parentResourceId=version)[1]["id"] == made["id"]
    assert send("GET", f"model_versions/{version}/artifacts")[1]["items"] == [made]


def test_change_replaces_properties_and_resets_the_state(send: Ask, model: str, version: str) -> None:
    """A change without a state makes an archived version live. A change without properties keeps the properties."""
    status, changed = send("PATCH", f"model_versions/{version}", {"customProperties": {"b": TEXT, "c": WHOLE}})
    assert (status, changed["state"], changed["customProperties"]) == (200, "LIVE", {"b": TEXT, "c": WHOLE})
    _, changed = send("PATCH", f"model_versions/{version}", {"state": "ARCHIVED"})
    assert (changed["state"], changed["customProperties"]) == ("ARCHIVED", {"b": TEXT, "c": WHOLE})
    send("PATCH", f"registered_models/{model}", {"state": "ARCHIVED"})
    _, changed = send("PATCH", f"registered_models/{model}", {"customProperties": {"b": TEXT}})
    assert (changed["state"], changed["customProperties"]) == ("LIVE", {"b": TEXT})


def test_version_needs_the_id_of_its_model(send: Ask, model: str) -> None:
    assert send("POST", "model_versions", {"name": "r1"})[0] == 422
    assert send("GET", "model_version", name="r1")[0] == 400


def test_versions_are_listed_in_pages(send: Ask, model: str, version: str) -> None:
    for name in ("r2", "r3"):
        send("POST", "model_versions", {"name": name, "registeredModelId": model})
    path = f"registered_models/{model}/versions"
    first = send("GET", path, pageSize="2")[1]
    second = send("GET", path, pageSize="2", nextPageToken=first["nextPageToken"])[1]
    assert [item["name"] for page in (first, second) for item in page["items"]] == ["r1", "r2", "r3"]
    assert (first["size"], second["nextPageToken"]) == (2, "")
