"""Send requests of the Open Inference Protocol with KServe's own clients, and print the answers as JSON.

    PYTHON_WITH_KSERVE kserve_client.py NAME REST_URL GRPC_ADDRESS IMAGE ...

If GRPC_ADDRESS is an empty text, only HTTP with JSON is used. `retrain serve` supports nothing else.
"""

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


def request(name: str, files: list[bytes], binary: bool) -> InferRequest:
    """Return a request with these image files, as raw bytes or as base64 in JSON."""
    images = InferInput("images", [len(files)], "BYTES")
    elements: list[Any] = files if binary else [base64.b64encode(file).decode() for file in files]
    images.set_data_from_numpy(np.array(elements, dtype=np.object_), binary_data=binary)
    return InferRequest(name, [images], request_id="7")


def answer(response: Any) -> dict[str, Any]:
    """Return only those parts of a response that tests compare."""
    labels, probabilities = (output.as_numpy() for output in response.outputs)
    texts = [label.decode() if isinstance(label, bytes) else label for label in labels.tolist()]
    return {"labels": texts, "probabilities": probabilities.tolist()}


async def main(name: str, url: str, grpc_address: str, files: list[bytes]) -> dict[str, Any]:
    """Return the server's health, and its answer to each kind of request."""
    rest = InferenceRESTClient(RESTConfig(protocol="v2"))
    found: dict[str, Any] = {
        "live": await rest.is_server_live(url),
        "ready": await rest.is_server_ready(url) and await rest.is_model_ready(url, model_name=name),
        "json": answer(await rest.infer(url, request(name, files, binary=False), model_name=name)),
    }
    if grpc_address:
        async with InferenceGRPCClient(grpc_address) as grpc:
            found["grpc_ready"] = await grpc.is_server_ready() and await grpc.is_model_ready(model_name=name)
            found["grpc"] = answer(await grpc.infer(request(name, files, binary=True)))
    await rest.close()
    return found


if __name__ == "__main__":
    task, address, grpc_target, *paths = sys.argv[1:]
    print(json.dumps(asyncio.run(main(task, address, grpc_target, [Path(path).read_bytes() for path in paths]))))
