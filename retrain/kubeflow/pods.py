"""Configure a step's pod from the task's `resources`, with kfp and kfp-kubernetes.

KFP cannot set a pod's service account or priority class. The account is set when the pipeline is submitted, and Kueue
sets the priority. kfp is imported only to configure a pod, because a TrainJob needs only the constants.
"""

from typing import TYPE_CHECKING, Any

from retrain.config.resources import Queue, Resources

if TYPE_CHECKING:
    from kfp.dsl import PipelineTask

POOL = ("train", "train_only", "evaluate", "trial")
"""The steps that need the GPU pool."""
DATA = (*POOL, "promote")
"""The steps that may need a model and images. `promote` needs them if another candidate was promoted meanwhile."""
FINISH = "finish"
CACHE = "/cache"
"""Path at which a step's cache volume is mounted."""
METRICS_PORT = 9108
"""Port of /metrics in a training pod. A PodMonitor finds the pod by `LABELS`."""
METRICS = {"RETRAIN_METRICS_PORT": str(METRICS_PORT), "RETRAIN_METRICS_HOST": "::"}
LABELS = {"app.kubernetes.io/name": "retrain", "app.kubernetes.io/component": "training"}
CREDENTIALS = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION"),
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    *("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN"),
)
"""Keys of the Secret `resources.credentials`. Each key that the Secret has becomes an environment variable."""
RETRY_WINDOW = "2160h"
"""Time in which a step may be retried, from the start of its first pod. At its end, Argo kills a running pod. KFP's
default is one hour."""


def configure_pod(step: "PipelineTask", name: str, resources: Resources) -> None:
    """Configure a step's pod. Pods that need data and pods on the GPU pool get additional settings."""
    _configure_every_pod(step, resources)
    if name != FINISH:
        step.set_retry(resources.retries, backoff_duration="30s", backoff_factor=2, backoff_max_duration=RETRY_WINDOW)
    if name in DATA:
        _configure_data(step, resources)
    if name in POOL:
        _configure_pool(step, resources)


def _configure_every_pod(step: "PipelineTask", resources: Resources) -> None:
    """Set Secrets and labels, and forbid root.

    The *restricted* Pod Security Standard requires that root is forbidden, and KFP does not forbid it.
    """
    from kfp import kubernetes

    kubernetes.set_security_context(step, run_as_non_root=True)
    if resources.pull_secret:
        kubernetes.set_image_pull_secrets(step, [resources.pull_secret])
    if resources.credentials:
        kubernetes.use_secret_as_env(step, resources.credentials, {name: name for name in CREDENTIALS}, optional=True)
    for label, value in resources.pod_labels.items():
        kubernetes.add_pod_label(step, label, value)


def _configure_data(step: "PipelineTask", resources: Resources) -> None:
    """Set cores, memory and cache. Limits equal requests: a pod that never exceeds its request is evicted last."""
    from kfp import kubernetes

    step.set_cpu_request(resources.cpu).set_cpu_limit(resources.cpu)
    step.set_memory_request(resources.memory).set_memory_limit(resources.memory)
    step.set_env_variable("RETRAIN_CACHE", CACHE)
    volume: dict[str, Any] = {"volume_name": "cache", "mount_path": CACHE}
    cache = resources.cache
    if cache.storage_class:
        volume |= {"access_modes": ["ReadWriteOnce"], "size": cache.size, "storage_class_name": cache.storage_class}
        kubernetes.add_ephemeral_volume(step, **volume)
    else:
        kubernetes.empty_dir_mount(step, **volume, size_limit=cache.size)


def _configure_pool(step: "PipelineTask", resources: Resources) -> None:
    from kfp import kubernetes

    shared = {"medium": "Memory", "size_limit": resources.shared_memory}
    kubernetes.empty_dir_mount(step, "shared-memory", "/dev/shm", **shared)
    if resources.gpus.count:
        step.set_accelerator_type(resources.gpus.type).set_accelerator_limit(resources.gpus.count)
    for label, value in resources.node_selector.items():
        kubernetes.add_node_selector(step, label, value)
    for toleration in resources.tolerations:
        kubernetes.add_toleration(step, **toleration.manifest())
    for label, value in (LABELS | queue_labels(resources.queue)).items():
        kubernetes.add_pod_label(step, label, value)
    for name, value in METRICS.items():
        step.set_env_variable(name, value)
    if resources.timeout_seconds:
        kubernetes.set_timeout(step, resources.timeout_seconds)


def queue_labels(queue: Queue | None) -> dict[str, str]:
    """Return the labels with which Kueue queues an object until it has quota."""
    if queue is None:
        return {}
    priority = {"kueue.x-k8s.io/priority-class": queue.priority_class} if queue.priority_class else {}
    return {"kueue.x-k8s.io/queue-name": queue.name, **priority}
