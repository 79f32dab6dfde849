"""Run an S3 server on loopback. It is moto over HTTP, with S3's guarantees for conditional writes added."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class QuietHandler(MotoRequestHandler):
    """A handler that answers requests without logging them.

    It reads a request's body before the application, because a client that is stopped while it sends must not make the
    application wait with a lock.
    """

    def make_environ(self) -> "WSGIEnvironment":
        environ = super().make_environ()
        if length := environ.get("CONTENT_LENGTH"):
            environ["wsgi.input"] = BytesIO(self.rfile.read(int(length)))
        return environ

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


class Dispatcher(DomainDispatcherApplication):
    """A dispatcher that caches the service of each host name.

    Without the cache, moto searches a folder for it in each request, and this takes a sixth of the request's time.
    """

    def __init__(self) -> None:
        super().__init__(create_backend_app)
        self._known: dict[str | None, Any] = {}

    def get_backend_for_host(self, host: str | None) -> Any:
        """Return the service's name, or None."""
        if host not in self._known:
            self._known[host] = super().get_backend_for_host(host)
        return self._known[host]


class OneWriteAtATime:
    """An application that handles one write at a time. moto checks a condition before it writes, so without this class
    two requests could interleave."""

    def __init__(self, app: "WSGIApplication") -> None:
        self._app, self._lock = app, Lock()

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "PUT":
            with suppress(ValueError):  # moto closes an object's file before it replaces the object
                return self._app(environ, start_response)
        with self._lock:
            return self._app(environ, start_response)


@contextmanager
def serving_s3(wrap: "Callable[[WSGIApplication], WSGIApplication]" = OneWriteAtATime) -> Iterator[str]:
    """Run the server within the context and yield its address. `wrap` changes moto's behaviour."""
    app = wrap(Dispatcher())
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=QuietHandler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
