"""Who watches a training here: the terminal, and whoever asks for its /metrics."""

from retrain.errors import UserError
from retrain.observe.watchers import for_stream
from retrain.records import Plan, Point
from retrain.training.progress import Observer, Progress


def gather(metrics_port: int | None, metrics_host: str) -> Observer:
    """Return the observers of a training in this process. Raises `UserError` if the port cannot be had."""
    if metrics_port is None:
        return for_stream()
    from retrain.observe import live  # nobody else needs prometheus_client

    try:
        return Audience(for_stream(), live.serve(metrics_host, metrics_port))
    except OSError as error:
        raise UserError(
            f"cannot serve /metrics on {metrics_host}:{metrics_port}: {error.strerror}; choose another --metrics-port"
        ) from error


class Audience:
    """Observers that watch together."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def started(self, plan: Plan, progress: Progress) -> None:
        """Tell them."""
        for observer in self.observers:
            observer.started(plan, progress)

    def stepped(self, progress: Progress) -> None:
        """Tell them."""
        for observer in self.observers:
            observer.stepped(progress)

    def evaluated(self, point: Point) -> None:
        """Tell them."""
        for observer in self.observers:
            observer.evaluated(point)

    def ended(self, outcome: str, progress: Progress) -> None:
        """Tell them."""
        for observer in self.observers:
            observer.ended(outcome, progress)
