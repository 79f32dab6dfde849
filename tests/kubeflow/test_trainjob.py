"""A retraining on several nodes: the manifest of its TrainJob, and its processes on this machine."""

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from retrain.pipelines.definition import build
from support.processes import ForkedCommand, preloaded_python, preloaded_retrain
from support.programs import free_port
from support.trainings import TASK, commit_drops, context_of
from support.writes import frozen_environment, wait_for_end, wait_for_frozen

from retrain.config.loading import parse_task
from retrain.config.resources import Cache, Gpus, Kubeflow, Queue, Resources, Toleration
from retrain.config.task import Model, Task
from retrain.errors import TaskError
from retrain.kubeflow.pods import CREDENTIALS
from retrain.kubeflow.trainjob import render_trainjob

POOL = Resources(
    image="registry.example/ml/retrain:7",
    pull_secret="registry",
    credentials="bucket",
    service_account="trainer",
    gpus=Gpus(count=8),
    nodes=4,
    cpu="16",
    memory="256Gi",
    shared_memory="32Gi",
    cache=Cache(size="200Gi", storage_class="fast"),
    node_selector={"pool": "spot"},
    tolerations=(Toleration(key="spot", value="true", effect="NoSchedule"),),
    queue=Queue(name="training", priority_class="nightly"),
)
FLOWERS = Task(name="flowers", store="s3://bucket/x", resources=POOL, kubeflow=Kubeflow(namespace="ml"))
RUN = "continuous-0123456789ab"


def manifest(task: Task, run_id: str = RUN) -> dict[str, Any]:
    text = render_trainjob(task, run_id)
    assert "&id" not in text, "people edit the manifest, so it has no YAML aliases"
    job: dict[str, Any] = yaml.safe_load(text)
    return job


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    """Return the pod that Trainer creates: the runtime's container with the fields of the patch and of `trainer`."""
    (patch,) = job["spec"]["runtimePatches"]
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-\w.]+", patch["manager"]), (
        "Trainer's webhook refuses this manager"
    )
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert node["name"] == "node"
    template, trainer = node["template"]["spec"]["template"], job["spec"]["trainer"]
    (container,) = template["spec"]["containers"]
    from_trainer = {name: trainer[name] for name in ("image", "command", "args", "env")}
    spec = {**template["spec"], "containers": [{**container, **from_trainer, "resources": trainer["resourcesPerNode"]}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": spec}


def test_trainjob_requests_nodes_and_one_process_per_gpu() -> None:
    job = manifest(FLOWERS)
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert (job["metadata"]["name"], job["metadata"]["namespace"]) == (RUN, "ml")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "training"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "nightly"
    assert job["spec"]["runtimeRef"] == {"name": "torch-distributed"}
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (4, 8)
    amounts = {"cpu": "16", "memory": "256Gi", "nvidia.com/gpu": 8}
    assert trainer["resourcesPerNode"] == {"requests": amounts, "limits": amounts}
    assert not {variable["name"] for variable in trainer["env"]} & {"PET_NNODES", "PET_MASTER_ADDR"}


@pytest.mark.parametrize("version", ["1.30", "1.34"])
@pytest.mark.parametrize(
    "task", [FLOWERS, Task(name="flowers", store="s3://bucket/x")], ids=["all settings", "default settings"]
)
def test_trainjob_pods_are_valid_for_kubernetes(task: Task, version: str) -> None:
    kubernetes_validate.validate(pod_of(manifest(task)), version, strict=True)


def test_trainjob_pods_have_pool_secrets_cache_and_shared_memory() -> None:
    spec = pod_of(manifest(FLOWERS))["spec"]
    assert spec["serviceAccountName"] == "trainer"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["securityContext"]["fsGroup"] == 65532
    assert spec["nodeSelector"] == {"pool": "spot"}
    assert spec["tolerations"] == [{"key": "spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}]
    cache, shared = spec["volumes"]
    claim = cache["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert (claim["storageClassName"], claim["resources"]) == ("fast", {"requests": {"storage": "200Gi"}})
    assert shared["emptyDir"] == {"medium": "Memory", "sizeLimit": "32Gi"}
    (container,) = spec["containers"]
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/cache", "/dev/shm"}
    secret = {v["name"]: v["valueFrom"]["secretKeyRef"]["name"] for v in container["env"] if "valueFrom" in v}
    assert secret == dict.fromkeys(CREDENTIALS, "bucket")
    assert parse_task(container["args"][1], "argument") == FLOWERS


@pytest.mark.parametrize("empty", [None, ""])
def test_trainjob_cache_without_storage_class_is_on_the_node(empty: str | None) -> None:
    """Kubernetes creates no volume for the storage class with the empty name, so the pod would never start."""
    pool = POOL.model_copy(update={"cache": Cache(size="200Gi", storage_class=empty)})
    cache, _ = pod_of(manifest(FLOWERS.model_copy(update={"resources": pool})))["spec"]["volumes"]
    assert cache == {"name": "cache", "emptyDir": {"sizeLimit": "200Gi"}}


def test_trainjob_pods_meet_the_restricted_pod_security_standard() -> None:
    """Trainer and its runtime do not set these fields. A cluster that enforces the standard refuses such pods."""
    spec = pod_of(manifest(FLOWERS))["spec"]
    pod = spec["securityContext"]
    assert (pod["runAsNonRoot"], pod["runAsUser"], pod["seccompProfile"]) == (True, 65532, {"type": "RuntimeDefault"})
    (container,) = spec["containers"]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_pipeline_for_several_nodes_is_refused() -> None:
    with pytest.raises(TaskError, match=r"resources\.nodes: a pipeline trains on one node; use "):
        build(FLOWERS)


def small_task(folder: Path) -> Task:
    """Return a task with about 60 iterations and a checkpoint after each, on two nodes without GPUs."""
    training = TASK.training.model_copy(update={"epochs": 12, "save_seconds": 0})
    settings = {"model": Model(name="mlp"), "training": training, "store": str(folder / "store")}
    return TASK.model_copy(update={**settings, "resources": Resources(nodes=2)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    commit_drops(tmp_path)
    return tmp_path


def planned(folder: Path) -> dict[str, Any]:
    """Return the manifest that `retrain pipeline trainjob` prints."""
    (folder / "pets.yaml").write_text(yaml.safe_dump(small_task(folder).model_dump(mode="json")))
    command = [preloaded_retrain(), "pipeline", "trainjob", "--task", str(folder / "pets.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pods cannot read it" in done.stderr
    job: dict[str, Any] = yaml.safe_load(done.stdout)
    return job


def node(folder: Path, job: dict[str, Any], rank: int, port: int, freeze: Path | None = None) -> ForkedCommand:
    """Start a node: run the command of the job's container with the environment that Trainer adds."""
    trainer = job["spec"]["trainer"]
    assert trainer["command"][0] == "torchrun"
    environment = {
        "PET_NNODES": str(trainer["numNodes"]),
        "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
        "PET_NODE_RANK": str(rank),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
        "RETRAIN_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHON_EXEC": preloaded_python(),  # torchrun starts its processes with this program
    }
    return ForkedCommand(
        "torch.distributed.run",
        *trainer["command"][1:],
        *trainer["args"],
        output=folder / f"node-{rank}-{freeze is None}.log",
        environment=frozen_environment(freeze, 6, **environment) if freeze else {**os.environ, **environment},
    )


def kill_node(process: ForkedCommand) -> None:
    """Kill torchrun and the processes that it started."""
    started = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, started)):
        os.kill(pid, signal.SIGKILL)


def test_killed_node_ends_all_pods_and_the_run_resumes(folder: Path) -> None:
    job = planned(folder)
    context, run_id = context_of(folder), job["metadata"]["name"]
    state = f"{TASK.name}/runs/{run_id}/state/"
    port = free_port()
    pid_file = folder / "frozen"
    nodes = [node(folder, job, rank, port, pid_file) for rank in range(2)]
    frozen = wait_for_frozen(pid_file, nodes[0])
    kill_node(nodes[1])
    wait_for_end(int(Path(f"{pid_file}-1").read_text()))
    os.kill(frozen, signal.SIGCONT)
    outputs = [process.communicate() for process in nodes]
    assert [process.poll() for process in nodes] == [1, -signal.SIGKILL]
    assert "another training process ended or stopped responding" in outputs[0]
    reached = max(int(entry.key.removeprefix(state)[:12]) for entry in context.store.objects.list(state))
    assert context.store.ledger.find(run_id) is None
    nodes = [node(folder, job, rank, port) for rank in range(2)]
    outputs = [process.communicate() for process in nodes]
    assert [process.poll() for process in nodes] == [0, 0], outputs
    record = context.store.ledger.find(run_id)
    assert record
    assert (record.outcome, record.decision and record.decision.promoted) == ("completed", True)
    assert f", resumed at iteration {reached}" in outputs[0]
