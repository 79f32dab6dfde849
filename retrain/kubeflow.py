"""Where a task's pipeline is submitted to."""

from typing import Annotated

from pydantic import Field

from retrain.addresses import NoSecret
from retrain.errors import SubmitError
from retrain.recipe.settings import Part


class Kubeflow(Part):
    """The Kubeflow Pipelines API server, and where runs go there."""

    host: Annotated[str, Field(pattern=r"^https?://[^/]"), NoSecret] | None = None
    """Its address, such as http://ml-pipeline.kubeflow:8888; --host where absent."""
    namespace: str | None = None
    """The profile's namespace, where the server serves several users."""
    experiment: str | None = None
    """Experiment that collects the runs; one named after the task where absent."""

    def require_host(self) -> str:
        """Return the address. Raises `SubmitError` if nobody said it."""
        if self.host is None:
            raise SubmitError("where is Kubeflow Pipelines? Say it with --host, or as kubeflow.host in the task")
        return self.host
