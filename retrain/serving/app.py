"""The ASGI application: predictions, health and metrics of one task's champion."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from retrain.errors import ImageError, UserError
from retrain.inference.model import Model
from retrain.monitoring.metrics import make_registry
from retrain.serving import protocol
from retrain.serving.champion import FollowedChampion
from retrain.serving.counts import Counts
from retrain.utils.processes import available_cores

MOST_BYTES = 16 << 20
"""Of a request's body."""

Answer = tuple[dict[str, Any], int]
"""A JSON document, and of how many images it tells."""


class TooLarge(UserError):
    """A request whose body has more than `MOST_BYTES`."""


def make_app(name: str, champion: FollowedChampion, counts: Counts) -> Starlette:
    """Return the application for a task of this name. Networks compute in threads, so health is answered meanwhile."""
    registry = make_registry(counts)
    threads = ThreadPoolExecutor(available_cores(), thread_name_prefix="predict")

    def counted(answer: Callable[[Model, bytes], Answer]) -> Callable[[Request], Awaitable[Response]]:
        """Answer a POST of a body by the model that is in force when it has arrived."""

        async def endpoint(request: Request) -> Response:
            began, images = time.monotonic(), 0
            try:
                body = await _read_body(request)
                model = champion.model
                document, images = await asyncio.get_running_loop().run_in_executor(threads, answer, model, body)
                response = JSONResponse(document)
            except TooLarge as error:
                response = JSONResponse({"error": str(error)}, 413)
            except (protocol.BadRequest, ImageError) as error:
                response = JSONResponse({"error": str(error)}, 400)
            counts.answered(response.status_code, images, time.monotonic() - began)
            return response

        return endpoint

    def infer(model: Model, body: bytes) -> Answer:
        request = protocol.parse_request(body)
        predictions = model.predict(protocol.image_files(request))
        return protocol.inference_response(name, model, request, predictions), len(predictions)

    def predict(model: Model, body: bytes) -> Answer:
        return protocol.single_response(model, model.predict([body])), 1

    async def metadata(request: Request) -> Response:
        return JSONResponse(protocol.model_metadata(name, champion.model))

    async def ready(request: Request) -> Response:
        return JSONResponse({"name": name, "ready": True})

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route("/predict", counted(predict), methods=["POST"]),
            Route(f"/v2/models/{name}/infer", counted(infer), methods=["POST"]),
            Route(f"/v2/models/{name}", metadata),
            Route(f"/v2/models/{name}/ready", ready),
            Route("/v2", _server),
            Route("/v2/health/live", _live),
            Route("/v2/health/ready", _live),
            Route("/healthz", _healthy),
            Route("/readyz", _healthy),
            Route("/metrics", metrics),
        ],
    )


async def _read_body(request: Request) -> bytes:
    """Return the body. Raises `TooLarge` as soon as it is, and never holds more."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise TooLarge(f"the body has more than {MOST_BYTES:,} bytes: send fewer images at once")
    return bytes(body)


async def _server(request: Request) -> Response:
    return JSONResponse(protocol.server_metadata())


async def _live(request: Request) -> Response:
    return JSONResponse({"live": True})


async def _healthy(request: Request) -> Response:
    return PlainTextResponse("ok\n")
