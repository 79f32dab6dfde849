"""Serve a task's champion with KServe's SDK: the Open Inference Protocol, version 2, over HTTP and gRPC.

    python server.py --task flowers --http_port 8080 --grpc_port 8081

Needs `pip install kserve` (tested with 0.21) in addition to retrain. The SDK adds gRPC and its own metrics to what
`retrain serve` has.
"""

import argparse
import asyncio
import base64
import binascii
import time

import kserve
from kserve.errors import InvalidInput
from kserve.model_server import parser as kserve_parser
from kserve.protocol.infer_type import InferInput, InferOutput, InferRequest, InferResponse
from prometheus_client import REGISTRY

from retrain.errors import ImageError
from retrain.inference.loading import Source, find_source
from retrain.inference.model import Predictions
from retrain.serving.champion import FollowedChampion
from retrain.serving.counts import Counts
from retrain.serving.protocol import model_metadata


class Champion(kserve.Model):
    """A task's champion. A request uses one model to its end, even if a new champion is loaded meanwhile."""

    def __init__(self, source: Source, device: str, every: float) -> None:
        """Load the champion, and check for a new one every `every` seconds."""
        super().__init__(source.store.task)
        self._counts = Counts(self.name)
        REGISTRY.register(self._counts)  # the SDK's /metrics then has retrain_serving_... too
        self._champion = FollowedChampion(source, device, self._counts)
        self._champion.start(every)
        self.ready = True

    def get_input_types(self) -> list[dict[str, object]]:
        """Return the inputs: image files."""
        return list(model_metadata(self.name, self._champion.model)["inputs"])

    def get_output_types(self) -> list[dict[str, object]]:
        """Return the outputs: labels, and the probabilities of all classes."""
        return list(model_metadata(self.name, self._champion.model)["outputs"])

    async def predict(self, payload: InferRequest, headers: dict[str, str] | None = None) -> InferResponse:
        """Return the label and the probabilities of each image."""
        began, code, images = time.monotonic(), 500, 0
        model = self._champion.model
        try:
            files = image_files(payload.inputs)
            predictions = await asyncio.to_thread(model.predict, files)
            code, images = 200, len(files)
        except (InvalidInput, ImageError) as error:
            code = 400
            raise InvalidInput(str(error)) from error
        finally:
            self._counts.answered(code, images, time.monotonic() - began)
        return InferResponse(payload.id, self.name, outputs_of(predictions), model.run_id)

    def stop(self) -> None:
        """Refuse further requests, and stop checking for new champions."""
        super().stop()
        self._champion.stop()


def image_files(inputs: list[InferInput]) -> list[bytes]:
    """Return the image files of a request. Raises `InvalidInput`.

    A gRPC request contains raw files. An HTTP request contains files in base64, because the SDK decodes the BYTES
    tensors of HTTP requests as UTF-8, even binary tensors.
    """
    if len(inputs) != 1 or inputs[0].datatype != "BYTES" or len(inputs[0].shape) != 1:
        raise InvalidInput("pass one input of datatype BYTES and shape [N], one image file per element")
    elements = inputs[0].as_numpy().tolist()
    try:
        return [one if isinstance(one, bytes) else base64.b64decode(one, validate=True) for one in elements]
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"an element is not base64: {error}") from error


def outputs_of(predictions: Predictions) -> list[InferOutput]:
    """Return the labels [N] and the probabilities [N, K] of N images, for K classes."""
    labels, probabilities = predictions.labels, predictions.probabilities
    shares = InferOutput("probabilities", list(probabilities.shape), "FP32", probabilities.flatten().tolist())
    return [InferOutput("labels", [len(labels)], "BYTES", labels), shares]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[kserve_parser])
    parser.add_argument("--task", required=True, help="A task's name or file, or its folder in a store.")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
    parser.add_argument("--every", type=float, default=30.0, help="Seconds between checks for a new champion.")
    chosen = parser.parse_args()
    kserve.ModelServer().start([Champion(find_source(chosen.task), chosen.device, chosen.every)])
