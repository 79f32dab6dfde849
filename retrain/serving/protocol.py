"""Requests and responses of the Open Inference Protocol, version 2 (HTTP/REST), as in KServe and Triton."""

import base64
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retrain import __version__
from retrain.errors import UserError
from retrain.inference.model import Model, Predictions

INPUT = "images"
TOP = 5
"""Number of classes in the response to a single image."""


class BadRequest(UserError):
    """A request that does not follow the protocol."""


class Tensor(BaseModel):
    """One input: image files in base64, as elements of type BYTES."""

    model_config = ConfigDict(extra="ignore")

    name: str
    shape: list[int]
    datatype: str
    data: list[str]


class Request(BaseModel):
    """An inference request. Its outputs and parameters are ignored."""

    model_config = ConfigDict(extra="ignore")

    id: str | None = None
    inputs: list[Tensor] = Field(min_length=1, max_length=1)


def parse_request(body: bytes) -> Request:
    """Return the request in a body. Raises `BadRequest`."""
    try:
        return Request.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadRequest(f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}") from error


def image_files(request: Request) -> list[bytes]:
    """Return the image files of a request. Raises `BadRequest`."""
    (given,) = request.inputs
    if given.datatype != "BYTES" or given.shape != [len(given.data)]:
        raise BadRequest(
            f"input {given.name}: must be of datatype BYTES and shape [{len(given.data)}], one image file per element"
        )
    try:
        return [base64.b64decode(element, validate=True) for element in given.data]
    except ValueError as error:
        raise BadRequest(f"input {given.name}: an element is not base64: {error}") from error


def model_metadata(name: str, model: Model) -> dict[str, Any]:
    """Return the metadata of a model. Its version is its run's id."""
    return {
        "name": name,
        "versions": [model.run_id],
        "platform": "retrain",
        "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "labels", "datatype": "BYTES", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(model.classes)]},
        ],
        "parameters": {"classes": list(model.classes)},
    }


def server_metadata() -> dict[str, Any]:
    """Return the metadata of the server."""
    return {"name": "retrain", "version": __version__, "extensions": []}


def inference_response(name: str, model: Model, request: Request, predictions: Predictions) -> dict[str, Any]:
    """Return the response to a request: the label of each image, and the probabilities of all classes, flattened."""
    count, classes = predictions.logits.shape
    outputs = [
        {"name": "labels", "datatype": "BYTES", "shape": [count], "data": predictions.labels},
        {
            "name": "probabilities",
            "datatype": "FP32",
            "shape": [count, classes],
            "data": predictions.probabilities.flatten().tolist(),
        },
    ]
    named = {"id": request.id} if request.id else {}
    return {"model_name": name, "model_version": model.run_id, **named, "outputs": outputs}


def single_response(model: Model, predictions: Predictions) -> dict[str, Any]:
    """Return the response to one image file: its most likely classes."""
    (ranked,) = predictions.top(TOP)
    top = [{"class": label, "probability": probability} for label, probability in ranked]
    return {"model": model.run_id, **top[0], "top": top}
