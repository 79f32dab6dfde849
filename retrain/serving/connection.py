"""Limit the open connections of the prediction server. Otherwise idle clients would use up its file descriptors."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 500
"""Largest number of open connections. Systems often allow a process 1,024 open files."""
IDLE_SECONDS = 30
"""Seconds without any data after which a connection is closed, unless it has a request that is being answered."""


class Connection(H11Protocol):
    """A client's connection. It is closed if there are too many connections, or if its next request does not arrive."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Close a connection beyond the limit at once. Otherwise wait for its first request."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.close()
        else:
            self._restart_timer()

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        super().data_received(data)
        self._restart_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting for requests."""
        if self._idle:
            self._idle.cancel()
        super().connection_lost(exc)

    def _restart_timer(self) -> None:
        if self._idle:
            self._idle.cancel()
        self._idle = self.loop.call_later(IDLE_SECONDS, self._close_if_incomplete)

    def _close_if_incomplete(self) -> None:
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self.transport.close()
