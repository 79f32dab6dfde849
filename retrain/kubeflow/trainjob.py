"""A retraining on several nodes: a `TrainJob` of Kubeflow Trainer (trainer.kubeflow.org/v1alpha1, Trainer 2.2).

Trainer starts torchrun in a pod on each node, and sets its environment (PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR,
...). If one pod fails, all pods exit and are restarted, and the run resumes from its newest checkpoint.
"""

from typing import Any

import yaml

from retrain.config.resources import Cache, Resources
from retrain.config.task import Task
from retrain.kubeflow.pods import CACHE, CREDENTIALS, LABELS, METRICS, queue_labels

Manifest = dict[str, Any]

RUNTIME = "torch-distributed"
"""The ClusterTrainingRuntime that Trainer installs. Its only job and its container are named `NODE`."""
NODE = "node"
MANAGER = "retrain/trainjob"
"""The owner of the patch. Trainer's webhook requires a name with a domain and a slash, although the API does not."""
SHARED_MEMORY = "shared-memory"
USER = 65532
"""The id of the image's user. It is also the group of the volumes' files. The user can therefore write to them."""
POD_SECURITY: Manifest = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Manifest = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""Together with `POD_SECURITY`, this meets the *restricted* Pod Security Standard. Trainer's runtime sets neither."""


def render_trainjob(task: Task, run_id: str) -> str:
    """Return the YAML manifest of a TrainJob. It runs the stages that follow planning, on the task's `resources`."""
    resources = task.resources
    labels = {**LABELS, "app.kubernetes.io/instance": task.name, **queue_labels(resources.queue)}
    metadata: Manifest = {"name": run_id, "labels": labels}
    if task.kubeflow.namespace:
        metadata["namespace"] = task.kubeflow.namespace
    spec = {
        "runtimeRef": {"name": RUNTIME},
        "trainer": _trainer(task, run_id),
        "runtimePatches": [{"manager": MANAGER, "trainingRuntimeSpec": {"template": _patch(resources)}}],
    }
    job = {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": metadata, "spec": spec}
    return yaml.safe_dump(job, sort_keys=False, width=120)


def _trainer(task: Task, run_id: str) -> Manifest:
    resources = task.resources
    amounts: Manifest = {"cpu": resources.cpu, "memory": resources.memory}
    if resources.gpus.count:
        amounts[resources.gpus.type] = resources.gpus.count
    return {
        "image": resources.image,
        "command": ["torchrun", "-m", "retrain.kubeflow.steps"],
        "args": ["complete", task.model_dump_json(), run_id, "auto"],
        "env": _environment(resources),
        "numNodes": resources.nodes,
        "numProcPerNode": max(1, resources.gpus.count),
        "resourcesPerNode": {"requests": amounts, "limits": dict(amounts)},
    }


def _environment(resources: Resources) -> list[Manifest]:
    plain = {"RETRAIN_CACHE": CACHE} | METRICS
    secret = resources.credentials
    keys = [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key, "optional": True}}}
        for key in CREDENTIALS
    ]
    return [*({"name": name, "value": value} for name, value in plain.items()), *(keys if secret else ())]


def _patch(resources: Resources) -> Manifest:
    """Return the pod settings that are added to Trainer's runtime, nested as in Trainer's API."""
    mounts = [{"name": "cache", "mountPath": CACHE}, {"name": SHARED_MEMORY, "mountPath": "/dev/shm"}]
    pod: Manifest = {
        "nodeSelector": resources.node_selector,
        "tolerations": [toleration.manifest() for toleration in resources.tolerations],
        "volumes": [_cache(resources.cache), _shared_memory(resources)],
        "securityContext": POD_SECURITY,
        "containers": [{"name": NODE, "volumeMounts": mounts, "securityContext": CONTAINER_SECURITY}],
    }
    if resources.service_account:
        pod["serviceAccountName"] = resources.service_account
    if resources.pull_secret:
        pod["imagePullSecrets"] = [{"name": resources.pull_secret}]
    template = {"metadata": {"labels": LABELS | resources.pod_labels}, "spec": pod}
    return {"spec": {"replicatedJobs": [{"name": NODE, "template": {"spec": {"template": template}}}]}}


def _cache(cache: Cache) -> Manifest:
    if not cache.storage_class:
        return {"name": "cache", "emptyDir": {"sizeLimit": cache.size}}
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": cache.storage_class,
        "resources": {"requests": {"storage": cache.size}},
    }
    return {"name": "cache", "ephemeral": {"volumeClaimTemplate": {"spec": claim}}}


def _shared_memory(resources: Resources) -> Manifest:
    return {"name": SHARED_MEMORY, "emptyDir": {"medium": "Memory", "sizeLimit": resources.shared_memory}}
