"""What a task asks of a cluster: its pods' resources, and the Kubeflow server that runs its pipeline."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from retrain import __version__
from retrain.config.fields import Bytes, ConfigModel, NoCredentials
from retrain.errors import SubmitError, TaskError


class Kubeflow(ConfigModel):
    """The Kubeflow Pipelines API server, and where runs go there."""

    host: Annotated[str, Field(pattern=r"^https?://[^/]"), NoCredentials] | None = None
    """Its address, such as http://ml-pipeline.kubeflow:8888; --host where absent."""
    namespace: str | None = None
    """The profile's namespace, where the server serves several users."""
    experiment: str | None = None
    """Experiment that collects the runs; one named after the task where absent."""

    def require_host(self) -> str:
        """Return the address. Raises `SubmitError` if neither the task nor the environment sets it."""
        if self.host is None:
            raise SubmitError("no address of Kubeflow Pipelines: pass --host or set kubeflow.host in the task")
        return self.host


class Gpus(ConfigModel):
    """The accelerators of one pod."""

    count: Annotated[int, Field(ge=0, le=16)] = 0
    """How many; 0 trains on the CPU."""
    type: Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")] = "nvidia.com/gpu"
    """Name of the resource: nvidia.com/gpu, amd.com/gpu, nvidia.com/mig-1g.10gb, ..."""


class Cache(ConfigModel):
    """A volume for decoded drops, made for a pod and deleted with it."""

    size: Bytes = "50Gi"
    """Its size."""
    storage_class: str | None = None
    """The class of the volume that is made; the node's own disk where absent."""


class Toleration(ConfigModel):
    """A taint that does not keep the pods off a node."""

    key: str
    """The taint's key."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """Exists: whatever its value; Equal: only with this value."""
    value: str | None = None
    """The taint's value, for Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The effect that is tolerated; every one where absent."""


class Queue(ConfigModel):
    """Kueue's queue, which holds the pods back until there is quota for them."""

    name: str
    """A LocalQueue in the pipelines' namespace."""
    priority_class: str | None = None
    """A WorkloadPriorityClass; the queue's own default where absent."""


class Resources(ConfigModel):
    """What the pods ask for: the GPU pool is for those that train and evaluate."""

    image: Annotated[str, Field(min_length=1)] = f"retrain:{__version__}"
    """Image of every pod, with its registry."""
    pull_secret: str | None = None
    """Secret that the image is pulled with."""
    credentials: str | None = None
    """Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; not needed where the service account has a role."""
    service_account: str | None = None
    """Service account of the pods, for the whole run; the cluster's default for pipelines where absent."""
    gpus: Gpus = Gpus()
    """Accelerators; of several, each trains its share of every batch."""
    nodes: Annotated[int, Field(ge=1, le=64)] = 1
    """How many such pods train together; more than one by `retrain pipeline trainjob` alone."""
    cpu: Annotated[str, Field(pattern=r"^([0-9]*[.])?[0-9]+m?$")] = "4"
    """Processor cores, such as 4 or 500m."""
    memory: Bytes = "16Gi"
    """Main memory, the shared memory included."""
    shared_memory: Bytes = "1Gi"
    """Size of /dev/shm, through which the processes of several GPUs talk."""
    cache: Cache = Cache()
    """Volume for decoded drops."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes to run on, such as those of a pool or a kind of GPU."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints of those nodes, as in [{key: nvidia.com/gpu}]."""
    queue: Queue | None = None
    """Kueue's queue, as in {name: training, priority_class: nightly}."""
    timeout_seconds: PositiveInt | None = None
    """Longest life of one pod; a training that is cut off goes on from its last saved state."""
    separate_evaluation: bool = False
    """Whether the model is evaluated, promoted and recorded in pods of their own: three more pods and image pulls, and
    one more decoding of the test split."""
    retries: Annotated[int, Field(ge=0, le=100)] = 5
    """How often a pod that failed is tried again; errors that would only come again are never retried."""

    def require_one_node(self) -> None:
        """Raise `TaskError` if several nodes are asked for, which no step of a pipeline can have."""
        if self.nodes > 1:
            raise TaskError("resources.nodes: a pipeline trains on one; `retrain pipeline trainjob` trains on several")
