"""Run the application on uvicorn until SIGTERM or SIGINT."""

import signal
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from retrain.errors import UserError
from retrain.inference.loading import Source
from retrain.serving.app import make_app
from retrain.serving.champion import FollowedChampion
from retrain.serving.connection import Connection
from retrain.serving.counts import Counts

GRACE_SECONDS = 20
"""Seconds that requests in progress may still take after SIGTERM or SIGINT. By default, Kubernetes kills the process
after 30 seconds."""
BACKLOG = 128
"""Connections that the system accepts ahead of the server, which then takes all of them in one step."""


class Server(uvicorn.Server):
    """A uvicorn server that prints its address once it listens."""

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Start listening, then print the address."""
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            print(f"serving on http://{self.config.host}:{self.port}/predict", flush=True)

    @property
    def port(self) -> int:
        """Return the port that the server listens on. For port 0, the system has chosen a free port."""
        address: tuple[str, int] = self.servers[0].sockets[0].getsockname()
        return address[1]


def make_server(app: Starlette, host: str, port: int) -> Server:
    """Return a server of an application. Port 0 selects a free port."""
    config = uvicorn.Config(
        app,
        host,
        port,
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return Server(config)


def serve(source: Source, host: str, port: int, every: float, device: str) -> None:
    """Serve a task's champion until SIGTERM or SIGINT, and check for a new champion every `every` seconds.

    Raises `UserError` if there is no champion or the port is taken.
    """
    name = source.store.task
    counts = Counts(name)
    champion = FollowedChampion(source, device, counts)
    champion.start(every)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ignore)  # uvicorn handles these signals, and sends them again after it has ended
    try:
        make_server(make_app(name, champion, counts), host, port).run()
    except SystemExit as end:  # uvicorn exits if it cannot listen
        raise UserError(f"cannot listen on {host}:{port}: pass another --port or --listen") from end
    finally:
        champion.stop()


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing."""
