"""A KServe predictor for a task's champion, by KServe's V1 protocol; a promotion or rollback is followed while it runs.

POST /v1/models/<task>:predict  {"instances": [{"image": {"b64": "<a PNG or JPEG file>"}}]}
answers {"predictions": [{"class": "rose", "probability": 0.98}], "model": "<run id>"}; GET /v1/models/<task> that it
is ready.
"""

import base64
import json
import os
import time
from collections.abc import Collection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from retrain.config.loading import load_task
from retrain.data.augment import Normalize
from retrain.data.images import decode_image
from retrain.errors import RunError, UserError
from retrain.pipeline.evaluate import load_network
from retrain.records import Plan
from retrain.store.task_store import TaskStore, open_task_store

EVERY_SECONDS = 30.0
"""Between looks at who is champion."""
MOST_BYTES = 16 << 20
"""Of a request."""


class Model(NamedTuple):
    """A run's model, ready to predict."""

    plan: Plan
    network: nn.Module

    @torch.no_grad()
    def predict(self, files: list[bytes]) -> list[dict[str, Any]]:
        """Return the likeliest class of each image file, and its probability. Raises `DropError` for what is none."""
        data = self.plan.task.data
        images = torch.from_numpy(np.stack([decode_image(file, data.image_size) for file in files]))
        probabilities, classes = self.network(Normalize(data)(images)).softmax(1).max(1)
        names = (self.plan.dataset.classes[index] for index in classes.tolist())
        return [
            {"class": name, "probability": probability}
            for name, probability in zip(names, probabilities.tolist(), strict=True)
        ]


class Champion:
    """The model in force."""

    def __init__(self, store: TaskStore, factories: Collection[str] = ()) -> None:
        self._store, self._factories = store, factories
        self.model = self._load(self._run_id())

    def refresh(self) -> None:
        """Load the model in force, if it is another by now."""
        if (run_id := self._run_id()) != self.model.plan.run_id:
            self.model = self._load(run_id)

    def follow(self) -> None:
        """Refresh for ever; while the new model cannot be read, or does not fit, the old one is served."""
        while True:
            time.sleep(EVERY_SECONDS)
            try:
                self.refresh()
            except UserError as error:
                print(f"the champion cannot be read: {error}", flush=True)

    def _run_id(self) -> str:
        if (run_id := self._store.champion.read().run_id) is None:
            raise RunError(f"task {self._store.task} has no champion yet")
        return run_id

    def _load(self, run_id: str) -> Model:
        files = self._store.run(run_id)
        plan = files.plan()
        return Model(plan, load_network(files, plan, self._factories, torch.device("cpu")).eval())


def server(name: str, champion: Champion, port: int) -> ThreadingHTTPServer:
    """Return the web server."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 30  # seconds of silence

        def do_GET(self) -> None:
            known = self.path == f"/v1/models/{name}"
            self._reply(200 if known else 404, {"name": name, "ready": known})

        def do_POST(self) -> None:
            if self.path != f"/v1/models/{name}:predict":
                return self._reply(404, {"error": f"there is /v1/models/{name}:predict"})
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > MOST_BYTES:
                return self._reply(413, {"error": f"Content-Length must be at most {MOST_BYTES}"})
            body, model = self.rfile.read(int(length)), champion.model
            try:
                files = [base64.b64decode(item["image"]["b64"]) for item in json.loads(body)["instances"]]
                self._reply(200, {"predictions": model.predict(files), "model": model.plan.run_id})
            except (UserError, ValueError, KeyError, TypeError) as error:
                self._reply(400, {"error": f"{type(error).__name__}: {error}"})

        def log_message(self, *_: object) -> None:
            """Requests are not worth a line each."""

        def _reply(self, status: int, document: dict[str, Any]) -> None:
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return ThreadingHTTPServer(("", port), Handler)


def main() -> None:
    """Serve the task that $TASK names, on $PORT."""
    task = load_task(os.environ["TASK"])
    champion = Champion(open_task_store(task), {task.model.name, *task.factories})
    Thread(target=champion.follow, daemon=True).start()
    server(task.name, champion, int(os.environ.get("PORT", "8080"))).serve_forever()


if __name__ == "__main__":
    main()
