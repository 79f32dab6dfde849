"""The ASGI application: predictions, health and metrics of one task's champion."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from retrain.errors import ImageError, UserError
from retrain.inference.model import Model
from retrain.monitoring.metrics import make_registry
from retrain.serving import protocol
from retrain.serving.champion import FollowedChampion
from retrain.serving.counts import Counts
from retrain.utils.processes import available_cores

MAX_BODY_BYTES = 16 << 20
"""Largest size of a request's body, in bytes."""

Answer = tuple[dict[str, Any], int]
"""A JSON document, and its number of images."""


class TooLarge(UserError):
    """A request whose body is larger than `MAX_BODY_BYTES`."""


def make_app(name: str, champion: FollowedChampion, counts: Counts) -> Starlette:
    """Return the application for a task of this name."""
    endpoints = Endpoints(name, champion, counts)
    return Starlette(
        routes=[
            Route("/predict", endpoints.predict, methods=["POST"]),
            Route(f"/v2/models/{name}/infer", endpoints.infer, methods=["POST"]),
            Route(f"/v2/models/{name}", endpoints.metadata),
            Route(f"/v2/models/{name}/ready", endpoints.ready),
            Route("/v2", _server),
            Route("/v2/health/live", _live),
            Route("/v2/health/ready", _ready),
            Route("/healthz", _healthy),
            Route("/readyz", _healthy),
            Route("/metrics", endpoints.metrics),
        ],
    )


class Endpoints:
    """The endpoints of one task. Networks compute in threads. The server answers health checks meanwhile."""

    def __init__(self, name: str, champion: FollowedChampion, counts: Counts) -> None:
        self._name, self._champion, self._counts = name, champion, counts
        self._registry = make_registry(counts)
        self._threads = ThreadPoolExecutor(available_cores(), thread_name_prefix="predict")

    async def predict(self, request: Request) -> Response:
        """Classify the image in the body."""
        return await self._answer(
            request, lambda model, body: (protocol.single_response(model, model.predict([body])), 1)
        )

    async def infer(self, request: Request) -> Response:
        """Classify the images of a request of the Open Inference Protocol."""
        return await self._answer(request, self._infer)

    async def metadata(self, request: Request) -> Response:
        """Describe the champion's inputs and outputs."""
        return JSONResponse(protocol.model_metadata(self._name, self._champion.model))

    async def ready(self, request: Request) -> Response:
        """Report that a model is loaded. The server does not start without one."""
        return JSONResponse({"name": self._name, "ready": True})

    async def metrics(self, request: Request) -> Response:
        """Return the metrics in the Prometheus text format."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    def _infer(self, model: Model, body: bytes) -> Answer:
        request = protocol.parse_request(body)
        predictions = model.predict(protocol.image_files(request))
        return protocol.inference_response(self._name, model, request, predictions), len(predictions)

    async def _answer(self, request: Request, answer: Callable[[Model, bytes], Answer]) -> Response:
        """Count a request, and answer it with the model that is loaded when the request's body has arrived."""
        began, images = time.monotonic(), 0
        try:
            body = await _read_body(request)
            loop, model = asyncio.get_running_loop(), self._champion.model
            document, images = await loop.run_in_executor(self._threads, answer, model, body)
            response = JSONResponse(document)
        except TooLarge as error:
            response = JSONResponse({"error": str(error)}, 413)
        except (protocol.BadRequest, ImageError) as error:
            response = JSONResponse({"error": str(error)}, 400)
        except ClientDisconnect:  # the client cannot get this answer, so it is not counted
            return Response(status_code=400)
        except Exception:
            self._counts.answered(500, 0, time.monotonic() - began)
            raise
        self._counts.answered(response.status_code, images, time.monotonic() - began)
        return response


async def _read_body(request: Request) -> bytes:
    """Return the body. Raises `TooLarge` as soon as it exceeds the limit, and `BadRequest` for a form."""
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise protocol.BadRequest("the body is a form: send only the image file, as curl --data-binary @FILE does")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise TooLarge(f"the body is larger than {MAX_BODY_BYTES:,} bytes: send fewer images per request")
    return bytes(body)


async def _server(request: Request) -> Response:
    return JSONResponse(protocol.server_metadata())


async def _live(request: Request) -> Response:
    return JSONResponse({"live": True})


async def _ready(request: Request) -> Response:
    return JSONResponse({"ready": True})


async def _healthy(request: Request) -> Response:
    return PlainTextResponse("ok\n")
