"""A task's settings for a cluster: resources of its pods, and the Kubeflow server that runs its pipeline."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from retrain import __version__
from retrain.config.fields import Bytes, ConfigModel, NoCredentials
from retrain.errors import SubmitError, TaskError


class Kubeflow(ConfigModel):
    """The Kubeflow Pipelines API server, and the namespace and experiment of its runs."""

    host: Annotated[str, Field(pattern=r"^https?://[^/]"), NoCredentials] | None = None
    """Address of the Kubeflow Pipelines API, such as http://ml-pipeline.kubeflow:8888. --host overrides it."""
    namespace: str | None = None
    """The profile's namespace, if the server has several users."""
    experiment: str | None = None
    """Experiment of the runs (default: the task's name)."""

    def require_host(self) -> str:
        """Return the address. Raises `SubmitError` if it is not set."""
        if self.host is None:
            raise SubmitError("no address of Kubeflow Pipelines: pass --host or set kubeflow.host in the task file")
        return self.host


class Gpus(ConfigModel):
    """The accelerators of one pod."""

    count: Annotated[int, Field(ge=0, le=16)] = 0
    """Number of accelerators. With 0, the pod trains on the CPU."""
    type: Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")] = "nvidia.com/gpu"
    """Name of the resource: nvidia.com/gpu, amd.com/gpu, nvidia.com/mig-1g.10gb, ..."""


class Cache(ConfigModel):
    """A volume for decoded drops, created for a pod and deleted with it."""

    size: Bytes = "50Gi"
    """Size of the volume, such as 50Gi."""
    storage_class: str | None = None
    """Storage class of the volume (default: the node's disk)."""


class Toleration(ConfigModel):
    """A toleration of the pods for a node's taint."""

    key: str
    """The taint's key."""
    operator: Literal["Exists", "Equal"] | None = None
    """Exists tolerates any value, and Equal only this value (default: Equal if there is a value, else Exists)."""
    value: str | None = None
    """The taint's value, for Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The effect that is tolerated (default: all effects)."""

    def manifest(self) -> dict[str, str]:
        """Return the toleration as Kubernetes reads it. Kubernetes refuses a value with the operator Exists."""
        operator = self.operator or ("Equal" if self.value else "Exists")
        return self.model_dump(exclude_none=True) | {"operator": operator}


class Queue(ConfigModel):
    """The Kueue queue in which the pods wait until they have quota."""

    name: str
    """Name of a LocalQueue in the pipelines' namespace."""
    priority_class: str | None = None
    """A WorkloadPriorityClass. Without one, Kueue uses the priority of the pods."""


class Resources(ConfigModel):
    """Requests and limits of the pods. Only pods that train and evaluate request GPUs."""

    image: Annotated[str, Field(min_length=1)] = f"retrain:{__version__}"
    """Container image of every pod, with its registry."""
    pull_secret: str | None = None
    """Secret with the registry's credentials."""
    credentials: str | None = None
    """Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_SERVICE_ACCOUNT_KEY or AZURE_STORAGE_ACCOUNT_KEY.
    It may also have AWS_SESSION_TOKEN and AWS_DEFAULT_REGION. Not needed if the service account has a role or a
    workload identity."""
    service_account: str | None = None
    """Service account of all pods of a run (default: the cluster's service account for pipelines)."""
    pod_labels: dict[str, str] = Field(default_factory=dict)
    """Labels of all pods, such as {azure.workload.identity/use: "true"}."""
    gpus: Gpus = Gpus()
    """Accelerators of a pod. If there are several, each trains on its share of every batch."""
    nodes: Annotated[int, Field(ge=1, le=64)] = 1
    """Number of pods that train together. More than one needs `retrain pipeline trainjob`."""
    cpu: Annotated[str, Field(pattern=r"^([0-9]*[.])?[0-9]+m?$")] = "4"
    """Processor cores, such as 4 or 500m."""
    memory: Bytes = "16Gi"
    """Main memory, including shared memory, such as 16Gi or 500M."""
    shared_memory: Bytes = "1Gi"
    """Size of /dev/shm, such as 1Gi. The processes of several GPUs communicate through it."""
    cache: Cache = Cache()
    """Volume for decoded drops."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes to run on, such as the label of a node pool or GPU type."""
    tolerations: tuple[Toleration, ...] = ()
    """Tolerations of the pods, as in [{key: nvidia.com/gpu}]."""
    queue: Queue | None = None
    """The Kueue queue, as in {name: training, priority_class: nightly}."""
    timeout_seconds: PositiveInt | None = None
    """Longest run time of a pod. A training that is stopped after this time resumes from its last saved state."""
    separate_evaluation: bool = False
    """Evaluate, promote and record in separate pods. This costs three more pods and image pulls, and the test split is
    decoded once more."""
    retries: Annotated[int, Field(ge=0, le=100)] = 5
    """Number of retries of a failed pod. Errors that a retry cannot fix are not retried."""

    def require_one_node(self) -> None:
        """Raise `TaskError` if the task asks for several nodes: a pipeline trains on one."""
        if self.nodes > 1:
            raise TaskError(
                "resources.nodes: a pipeline trains on one node; use `retrain pipeline trainjob` to train on several"
            )
