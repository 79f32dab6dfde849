"""A client of the Kubeflow Pipelines API server. It submits a task's pipeline once for each run, or on a schedule.

The id of a plan's run is also the name of the run on Kubeflow. Before a submission, the client looks for a run with
this name. It therefore finds the run again after a crash between the submission and its record. The server allows
several runs with one name. The client therefore looks for the name once more after the submission. Concurrent
submissions then all find the same run.
"""

import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import yaml
from kfp.client import (
    KF_PIPELINES_SA_TOKEN_ENV,
    KF_PIPELINES_SA_TOKEN_PATH,
    Client,
    ServiceAccountTokenVolumeCredentials,
)
from kfp.compiler import Compiler
from kfp.dsl.graph_component import GraphComponent
from kfp_server_api import ApiException, V2beta1Experiment, V2beta1GetHealthzResponse, V2beta1Pipeline, V2beta1Run
from urllib3.exceptions import HTTPError

from retrain import __version__
from retrain.config.resources import Kubeflow
from retrain.config.task import Task
from retrain.errors import SubmitError
from retrain.kubeflow.parameter import write_parameter
from retrain.kubeflow.records import ENDED_STATES, PipelineBuilder, Registered, Submitted
from retrain.pipeline.planning import Request
from retrain.records import digest

TOKEN = "RETRAIN_KUBEFLOW_TOKEN"
"""Environment variable with a token, for clients outside the cluster."""

CREATE_TOKEN = "kubectl create token ACCOUNT --audience pipelines.kubeflow.org"

DEVICE = "auto"


def submit_by_name(task: Task, run_id: str, build: PipelineBuilder) -> Submitted:
    """Submit the retraining with this name, unless it is already submitted, and return it. Raises `SubmitError`."""
    return submit(task, run_id, build(task), pipeline_arguments(task, Request(), DEVICE, submission=run_id))


def submit(task: Task, name: str, pipeline: GraphComponent, parameters: Mapping[str, Any]) -> Submitted:
    """Return the run with this name on the task's server. Submit it if there is none. Raises `SubmitError`.

    Concurrent processes can create several runs with one name. Then the earliest run that has not ended is returned, or
    else the earliest run. Among runs that were created in the same second, it is the run with the lowest id.
    """
    with _connection(task.kubeflow) as client:
        experiment = _experiment(client, task)
        if found := _find_run(client, experiment, name):
            return _to_submitted(found, new=False)
        with TemporaryDirectory(prefix="retrain-") as folder:
            run = client.run_pipeline(
                experiment_id=experiment,
                job_name=name,
                pipeline_package_path=_compile(pipeline, folder),
                params=dict(parameters),
                service_account=task.resources.service_account,
            )
        first = _find_run(client, experiment, name) or run
        return _to_submitted(first, new=first.run_id == run.run_id)


def schedule(task: Task, build: PipelineBuilder) -> str:
    """Schedule retraining at the times of the task's `schedule`, and delete an earlier schedule.

    Returns the id of the recurring run. Raises `SubmitError`.
    """
    name = f"retrain-{task.name}"
    with _connection(task.kubeflow) as client, TemporaryDirectory(prefix="retrain-") as folder:
        experiment = _experiment(client, task)
        earlier = client.list_recurring_runs(
            experiment_id=experiment, filter=_equals("display_name", name), page_size=100
        )
        run = client.create_recurring_run(
            experiment_id=experiment,
            job_name=name,
            cron_expression=f"0 {task.schedule}",  # the server's first field is seconds
            max_concurrency=1,
            no_catchup=True,
            pipeline_package_path=_compile(build(task), folder),
            params=pipeline_arguments(task, Request(), DEVICE, submission=""),
            service_account=task.resources.service_account,
        )
        for replaced in earlier.recurring_runs or ():
            client.delete_recurring_run(replaced.recurring_run_id)
        return str(run.recurring_run_id)


def register(task: Task, build: PipelineBuilder) -> Registered:
    """Add the task's pipeline to Kubeflow's list of pipelines. Raises `SubmitError`.

    Its version is named after this program's version and the digest of the compiled pipeline. The digest covers the
    task, but not the comments in the compiled file, because the order of the fields in these comments varies. An
    existing version is not registered again.
    """
    name = f"retrain-{task.name}"
    space = task.kubeflow.namespace
    with _connection(task.kubeflow) as client, TemporaryDirectory(prefix="retrain-") as folder:
        package = _compile(build(_without_host(task)), folder)
        version = f"{__version__}-{digest(list(yaml.safe_load_all(Path(package).read_text())))[:8]}"
        pipeline, _ = _find_or_create(
            lambda: client.list_pipelines(filter=_equals("name", name), namespace=space).pipelines,
            lambda: client.pipelines.pipeline_service_create_pipeline(
                V2beta1Pipeline(display_name=name, namespace=space)
            ),
        )
        pipeline_id = pipeline.pipeline_id
        _, new = _find_or_create(
            lambda: client.list_pipeline_versions(pipeline_id, filter=_equals("name", version)).pipeline_versions,
            lambda: client.upload_pipeline_version(package, version, pipeline_id),
        )
        return Registered(name, version, new)


def _without_host(task: Task) -> Task:
    """Return the task without the server's address.

    No pod uses the address. With it, each local port that is forwarded to the server would make a new version.
    """
    return task.model_copy(update={"kubeflow": task.kubeflow.model_copy(update={"host": None})})


def reach(settings: Kubeflow) -> int:
    """Return the number of experiments that the credentials can see. Raises `SubmitError`."""
    with _connection(settings) as client:
        listed = client.list_experiments(page_size=1, namespace=settings.namespace)
        return int(listed.total_size or 0)


def _experiment(client: Client, task: Task) -> str:
    name = task.kubeflow.experiment or task.name
    space = task.kubeflow.namespace or client.get_user_namespace()
    experiment, _ = _find_or_create(
        lambda: client.list_experiments(filter=_equals("display_name", name), namespace=space).experiments,
        lambda: client.experiments.experiment_service_create_experiment(
            V2beta1Experiment(display_name=name, namespace=space)
        ),
    )
    return str(experiment.experiment_id)


def _find_or_create(find: Callable[[], list[Any] | None], create: Callable[[], Any]) -> tuple[Any, bool]:
    """Find an object of the server or create it. Return it, and whether this call created it.

    The server accepts each name only once. If several processes create the object at the same time, the server refuses
    all requests but one. The refused processes then find the object.
    """
    if found := find():
        return found[0], False
    try:
        return create(), True
    except ApiException as error:
        if error.status == HTTPStatus.CONFLICT and (found := find()):
            return found[0], False
        raise


def _find_run(client: Client, experiment: str, run_id: str) -> V2beta1Run | None:
    found = (
        client.list_runs(experiment_id=experiment, filter=_equals("display_name", run_id), sort_by="created_at").runs
        or []
    )
    ordered = sorted(found, key=lambda run: (run.state in ENDED_STATES, run.created_at, run.run_id))
    return ordered[0] if ordered else None


def _to_submitted(run: V2beta1Run, new: bool) -> Submitted:
    return Submitted(run.run_id, run.state, new)


def _equals(key: str, name: str) -> str:
    """Return a filter by name, URL-quoted, because the server decodes filters once more than other parameters."""
    return quote(json.dumps({"predicates": [{"operation": "EQUALS", "key": key, "stringValue": name}]}))


def _compile(pipeline: GraphComponent, folder: str) -> str:
    path = Path(folder, f"{uuid4().hex}.yaml")
    Compiler().compile(pipeline, str(path))
    return str(path)


@contextmanager
def _connection(settings: Kubeflow) -> Iterator[Client]:
    """Yield a client of the API server. Errors within the context become a `SubmitError` that names the server."""
    settings.require_host()
    logging.disable(logging.ERROR)  # the client logs tracebacks of the errors that it raises
    try:
        with redirect_stdout(io.StringIO()):  # the client prints links
            yield _connect(settings)
    except ApiException as error:
        raise SubmitError(
            f"{settings.host}: refused the request with {error.status} {error.reason}: {_explain(error)}"
        ) from error
    except (HTTPError, OSError) as error:
        cause = getattr(error, "reason", error)  # without urllib3's list of retries
        raise SubmitError(f"{settings.host}: cannot be reached: {cause}. Check kubeflow.host or --host") from error
    finally:
        logging.disable(logging.NOTSET)


def _explain(error: ApiException) -> str:
    """Return the cause once, and advice if the server refused the credentials.

    The server's reply repeats the cause for each layer of the server.
    """
    try:
        reply = json.loads(error.body)
        if "error_message" in reply:
            return _explain_upload(error, reply["error_message"])
        cause = str(reply["details"][0]["message"] if reply.get("details") else reply["message"])
        if cause == HTTPStatus.INTERNAL_SERVER_ERROR.phrase:
            cause = str(reply["message"])
    except (ValueError, TypeError, KeyError):
        cause = str(error.body).strip()
    if error.status == HTTPStatus.UNAUTHORIZED:
        return f"{cause}. Set {TOKEN}, for example to what `{CREATE_TOKEN}` prints"
    return cause


def _explain_upload(error: ApiException, message: str) -> str:
    """Return the message without the stack trace that follows it in the reply, and name a possible cause.

    For a missing permission, the server only answers that the request is bad.
    """
    if error.status == HTTPStatus.BAD_REQUEST:
        return f"{message}. The permission to create `pipelines` may be missing"
    return message


def _connect(settings: Kubeflow) -> Client:
    """Return a client with the token of the environment or the pod's projected token, if there is one."""
    token = os.environ.get(TOKEN)
    volume = Path(os.environ.get(KF_PIPELINES_SA_TOKEN_ENV) or KF_PIPELINES_SA_TOKEN_PATH)
    credentials = ServiceAccountTokenVolumeCredentials() if volume.is_file() and not token else None
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # about servers before version 2
        client = _Client(
            host=settings.host,
            namespace=settings.namespace or "kubeflow",  # the client's value for no namespace
            existing_token=token,
            credentials=credentials,
        )
    if client.get_kfp_healthz().multi_user is None:  # a website answers every request with a page
        raise SubmitError(
            f"{settings.host}: this is not the address of the API of Kubeflow Pipelines. Inside the cluster, use "
            "http://ml-pipeline.NAMESPACE:8888"
        )
    return client


class _Client(Client):  # type: ignore[misc]  # kfp has no types
    """A client that asks for the server's health once.

    kfp's own client asks five times within 25 s, and does not report why the server failed.
    """

    def get_kfp_healthz(self, sleep_duration: int = 0) -> V2beta1GetHealthzResponse:
        """Return the server's health."""
        return self.healthzs.healthz_service_get_healthz()


def pipeline_arguments(task: Task, request: Request, device: str, submission: str) -> dict[str, Any]:
    """Return the pipeline's arguments. Planning stores its result under `submission`, or else under the job's id."""
    return {
        "task": write_parameter(task),
        "method": request.method or "",
        "purpose": request.purpose,
        "device": device,
        "submission": submission,
    }
