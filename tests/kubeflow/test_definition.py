"""The compiled pipeline has the expected steps, parameters, artifacts and pod settings."""

import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from kfp.compiler import Compiler
from retrain.pipelines.definition import build, define_locally

from retrain.config.resources import Cache, Gpus, Queue, Resources, Toleration
from retrain.config.task import Task
from retrain.kubeflow.client import pipeline_arguments
from retrain.kubeflow.parameter import read_parameter
from retrain.kubeflow.pods import CREDENTIALS
from retrain.pipeline.planning import Request

STEPS = ("plan", "train", "finish")
"""Steps of the default pipeline. Its step `train` also evaluates, promotes and records."""
SEPARATE_STEPS = ("plan", "train-only", "evaluate", "promote", "record", "finish")
"""Steps of a pipeline with `resources.separate_evaluation`."""
POOL = Resources(
    image="registry.example/ml/retrain:7",
    pull_secret="registry",
    credentials="bucket",
    service_account="trainer",
    pod_labels={"azure.workload.identity/use": "true"},
    gpus=Gpus(count=2, type="nvidia.com/gpu"),
    cpu="8",
    memory="64Gi",
    shared_memory="4Gi",
    cache=Cache(size="200Gi", storage_class="fast"),
    node_selector={"cloud.example/gpu": "h100", "pool": "spot"},
    tolerations=(
        Toleration(key="nvidia.com/gpu"),
        Toleration(key="spot", value="true", effect="NoSchedule"),
    ),
    queue=Queue(name="training", priority_class="nightly"),
    timeout_seconds=7200,
    retries=7,
)
EVERY_POD = {"imagePullSecret", "podMetadata", "secretAsEnv", "securityContext"}
"""Settings of the pods of all steps on `POOL`."""
TASK = Task(name="flowers", store="s3://bucket/flowers", resources=POOL)
SEPARATE_TASK = TASK.model_copy(update={"resources": POOL.model_copy(update={"separate_evaluation": True})})


class Compiled(NamedTuple):
    """The two documents of a compiled pipeline."""

    spec: dict[str, Any]
    pods: dict[str, Any]

    def task(self, name: str) -> dict[str, Any]:
        """Return a step, at any level of nesting."""
        dags = [self.spec["root"], *self.spec["components"].values()]
        return next(dag["dag"]["tasks"][name] for dag in dags if name in dag.get("dag", {}).get("tasks", {}))

    def steps(self) -> tuple[str, ...]:
        """Return all steps, in their order."""
        executors = {name.removeprefix("exec-") for name in self.spec["deploymentSpec"]["executors"]}
        assert executors in (set(STEPS), set(SEPARATE_STEPS))
        return STEPS if executors == set(STEPS) else SEPARATE_STEPS

    def container(self, name: str) -> dict[str, Any]:
        """Return a step's container."""
        return self.spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]

    def pod(self, name: str) -> dict[str, Any]:
        """Return the part of a step's pod that Kubernetes reads."""
        return self.pods["platforms"]["kubernetes"]["deploymentSpec"]["executors"].get(f"exec-{name}", {})


def compiled(task: Task, folder: Path) -> Compiled:
    Compiler().compile(build(task), str(folder / "pipeline.yaml"))
    documents = list(yaml.safe_load_all((folder / "pipeline.yaml").read_text()))
    return Compiled(documents[0], documents[1])


@pytest.fixture(scope="module")
def on_pool(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return compiled(TASK, tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def separate(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return compiled(SEPARATE_TASK, tmp_path_factory.mktemp("separate"))


@pytest.fixture(params=["one pod", "separate pods"])
def either(request: pytest.FixtureRequest, on_pool: Compiled, separate: Compiled) -> Compiled:
    """Return a pipeline. Each test runs twice: with evaluation in the training pod, and in a separate pod."""
    return on_pool if request.param == "one pod" else separate


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return compiled(Task(name="flowers", store="s3://bucket/flowers"), tmp_path_factory.mktemp("plain"))


def test_default_pipeline_has_one_step_after_planning(on_pool: Compiled) -> None:
    assert on_pool.steps() == STEPS
    run_id = on_pool.task("train")["inputs"]["parameters"]["run_id"]
    assert run_id == {"componentInputParameter": "pipelinechannel--plan-Output"}
    inner = on_pool.spec["components"]["comp-condition-2"]["dag"]["tasks"]
    assert set(inner) == {"train"}


def test_separate_steps_get_the_run_id_of_the_previous_step(separate: Compiled) -> None:
    assert separate.steps() == SEPARATE_STEPS
    before = {"evaluate": "train-only", "promote": "evaluate", "record": "promote"}
    for name, producer in before.items():
        run_id = separate.task(name)["inputs"]["parameters"]["run_id"]["taskOutputParameter"]
        assert run_id == {"producerTask": producer, "outputParameterKey": "Output"}
        assert separate.task(name)["dependentTasks"] == [producer]
    inner = separate.spec["components"]["comp-condition-2"]["dag"]["tasks"]
    assert set(inner) == {"train-only", "evaluate", "promote", "record"}


@pytest.mark.parametrize("task", [TASK, SEPARATE_TASK], ids=["one pod", "separate pods"])
def test_local_pipeline_has_the_same_steps_without_artifacts(task: Task, tmp_path: Path) -> None:
    Compiler().compile(define_locally(task, "python", lambda step, name: None), str(tmp_path / "local.yaml"))
    spec = yaml.safe_load((tmp_path / "local.yaml").read_text())
    outputs = {name: set(part.get("outputDefinitions", {})) for name, part in spec["components"].items()}
    assert set().union(*outputs.values()) <= {"parameters"}
    steps = {name.removeprefix("exec-").removesuffix("-only") for name in spec["deploymentSpec"]["executors"]}
    expected = STEPS if task == TASK else SEPARATE_STEPS
    assert steps == {name.removesuffix("-only") for name in expected}


@pytest.mark.parametrize(("pipeline", "name"), [("on_pool", "train"), ("separate", "record")])
def test_only_the_step_that_ends_a_run_has_artifacts(request: pytest.FixtureRequest, pipeline: str, name: str) -> None:
    chosen: Compiled = request.getfixturevalue(pipeline)
    outputs = {key: part.get("outputDefinitions", {}) for key, part in chosen.spec["components"].items()}
    artifacts = {key: part["artifacts"] for key, part in outputs.items() if "artifacts" in part}
    assert artifacts.keys() == {f"comp-{name}"}
    kinds = {output: kind["artifactType"]["schemaTitle"] for output, kind in artifacts[f"comp-{name}"].items()}
    assert kinds == {
        "metrics": "system.Metrics",
        "confusion_matrix": "system.ClassificationMetrics",
        "report": "system.HTML",
        "model": "system.Model",
    }


def test_plan_without_a_run_skips_the_other_steps(either: Compiled) -> None:
    condition = either.spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]["condition-2"]
    assert condition["triggerPolicy"]["condition"] == "inputs.parameter_values['pipelinechannel--plan-Output'] != ''"


def test_last_step_always_runs_and_gets_the_final_status(either: Compiled) -> None:
    finish = either.spec["root"]["dag"]["tasks"]["finish"]
    assert finish["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert finish["dependentTasks"] == ["exit-handler-1"]
    assert finish["inputs"]["parameters"]["status"] == {"taskFinalStatus": {"producerTask": "exit-handler-1"}}


def test_pipeline_steps_are_not_cached(either: Compiled) -> None:
    for name in either.steps():
        assert either.task(name)["cachingOptions"] == {}  # with caching: {"enableCache": True}
    for name in ("plan", "finish"):
        job = either.task(name)["inputs"]["parameters"]["job"]
        assert job == {"runtimeValue": {"constant": "{{$.pipeline_job_uuid}}"}}


def test_all_steps_but_the_last_can_retry_for_90_days(either: Compiled) -> None:
    for name in either.steps()[:-1]:
        assert either.task(name)["retryPolicy"] == {
            "maxRetryCount": 7,
            "backoffDuration": "30s",
            "backoffFactor": 2.0,
            "backoffMaxDuration": f"{90 * 24 * 3600}s",
        }
    assert "retryPolicy" not in either.task("finish")


def test_pods_have_image_and_secrets_and_install_nothing(either: Compiled) -> None:
    for name in either.steps():
        assert either.container(name)["image"] == "registry.example/ml/retrain:7"
        assert "pip install" not in " ".join(either.container(name)["command"])
        (pull,) = either.pod(name)["imagePullSecret"]
        assert pull["secretName"] == "registry"
        (secret,) = either.pod(name)["secretAsEnv"]
        assert secret["secretName"] == "bucket"
        assert secret["optional"] is True
        assert secret["keyToEnv"] == [{"secretKey": key, "envVar": key} for key in CREDENTIALS]
        assert either.pod(name)["podMetadata"]["labels"].items() >= POOL.pod_labels.items()


def test_secret_can_have_temporary_keys_and_a_region(either: Compiled) -> None:
    for name in either.steps():
        (secret,) = either.pod(name)["secretAsEnv"]
        assert {"AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION"} <= {key["envVar"] for key in secret["keyToEnv"]}


def test_every_pod_refuses_to_run_as_root(either: Compiled) -> None:
    """The *restricted* Pod Security Standard requires it. KFP 2.17 itself sets the other fields of this standard."""
    for name in either.steps():
        assert either.pod(name)["securityContext"] == {"runAsNonRoot": True}


@pytest.mark.parametrize(
    ("pipeline", "name"), [("on_pool", "train"), ("separate", "train-only"), ("separate", "evaluate")]
)
def test_training_and_evaluation_run_on_the_gpu_pool(request: pytest.FixtureRequest, pipeline: str, name: str) -> None:
    chosen: Compiled = request.getfixturevalue(pipeline)
    limits = chosen.container(name)["resources"]
    assert limits["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert limits["accelerator"]["resourceCount"] == "2"
    assert limits["resourceCpuRequest"] == limits["resourceCpuLimit"] == "8"
    assert limits["resourceMemoryRequest"] == limits["resourceMemoryLimit"] == "64Gi"
    pod = chosen.pod(name)
    assert pod["nodeSelector"] == {"labels": {"cloud.example/gpu": "h100", "pool": "spot"}}
    assert pod["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists"},
        {"key": "spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"},
    ]
    assert pod["emptyDirMounts"] == [
        {"volumeName": "shared-memory", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "4Gi"}
    ]
    (cache,) = pod["genericEphemeralVolume"]
    assert cache["mountPath"] == "/cache"
    assert (cache["size"], cache["storageClassName"]) == ("200Gi", "fast")
    assert {"name": "RETRAIN_CACHE", "value": "/cache"} in chosen.container(name)["env"]
    assert pod["podMetadata"]["labels"] == {
        "app.kubernetes.io/name": "retrain",
        "app.kubernetes.io/component": "training",
        "azure.workload.identity/use": "true",
        "kueue.x-k8s.io/queue-name": "training",
        "kueue.x-k8s.io/priority-class": "nightly",
    }
    assert pod["activeDeadlineSeconds"] == "7200"


def test_promotion_step_has_memory_but_no_gpu(separate: Compiled) -> None:
    limits = separate.container("promote")["resources"]
    assert limits["resourceMemoryLimit"] == "64Gi"
    assert "accelerator" not in limits
    assert separate.pod("promote").keys() == EVERY_POD | {"genericEphemeralVolume"}


@pytest.mark.parametrize(
    ("pipeline", "name"),
    [("on_pool", "plan"), ("on_pool", "finish"), ("separate", "plan"), ("separate", "record"), ("separate", "finish")],
)
def test_steps_that_only_handle_records_request_no_resources(
    request: pytest.FixtureRequest, pipeline: str, name: str
) -> None:
    chosen: Compiled = request.getfixturevalue(pipeline)
    assert chosen.container(name).keys() == {"image", "command", "args"}
    assert chosen.pod(name).keys() == EVERY_POD


def test_task_without_gpu_gets_none_and_caches_on_node_disk(plain: Compiled) -> None:
    assert "accelerator" not in plain.container("train")["resources"]
    pod = plain.pod("train")
    assert pod.keys() == {"emptyDirMounts", "podMetadata", "securityContext"}
    assert {"volumeName": "cache", "mountPath": "/cache", "sizeLimit": "50Gi"} in pod["emptyDirMounts"]


def test_task_round_trips_as_a_pipeline_parameter(on_pool: Compiled) -> None:
    defaults = on_pool.spec["root"]["inputDefinitions"]["parameters"]
    assert {name: one["parameterType"] for name, one in defaults.items()} == {
        "task": "STRUCT",
        "method": "STRING",
        "purpose": "STRING",
        "device": "STRING",
        "submission": "STRING",
    }
    assert read_parameter(defaults["task"]["defaultValue"]) == TASK
    given = pipeline_arguments(TASK, Request("naive", "trial"), "cuda:1", "abc")
    assert given.keys() == defaults.keys() == set(build(TASK).pipeline_spec.root.input_definitions.parameters)
    assert read_parameter(given.pop("task")) == TASK
    assert given == {"method": "naive", "purpose": "trial", "device": "cuda:1", "submission": "abc"}


def test_compiled_pipeline_has_no_secret_or_local_path(tmp_path: Path) -> None:
    environment = {"AWS_SECRET_ACCESS_KEY": "hush", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    (tmp_path / "flowers.yaml").write_text("name: flowers\nstore: s3://bucket\nresources: {credentials: bucket}\n")
    command = [sys.executable, "-m", "retrain", "pipeline", "compile", "-t", "./flowers.yaml", "-o", "flowers-kfp.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "wrote flowers-kfp.yaml\n", "")
    text = (tmp_path / "flowers-kfp.yaml").read_text()
    assert "hush" not in text
    assert all(place not in text for place in (str(tmp_path), str(Path(__file__).parents[2]), sys.prefix))


def test_missing_kfp_error_contains_its_install_command() -> None:
    code = "import sys; sys.modules['kfp'] = None; import pipelines"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    message = "A Kubeflow pipeline needs kfp: pip install 'retrain-classifiers[kfp]'"
    assert f"retrain.errors.UserError: {message}\n" in done.stderr
