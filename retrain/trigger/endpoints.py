"""What the watcher answers over HTTP: /healthz (restart it?), /readyz (does it work?) and /metrics."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, make_wsgi_app

from retrain.observe.web import App, Environ, StartResponse, reply
from retrain.trigger.health import Health


def app(health: Health) -> App:
    """Return the WSGI application."""
    registry = CollectorRegistry()
    registry.register(health)
    metrics: App = make_wsgi_app(registry)

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                return metrics(environ, start_response)
            case "/healthz":
                problems = [] if health.is_alive() else ["the watcher's loop has stopped"]
            case "/readyz":
                problems = health.problems()
            case _:
                return reply(start_response, "404 Not Found", "text/plain", b"there is /healthz, /readyz, /metrics\n")
        status = "503 Service Unavailable" if problems else "200 OK"
        return reply(start_response, status, "text/plain", ("\n".join(problems or ["ok"]) + "\n").encode())

    return answer
