"""Every mistake in the chart's values is refused when the chart is installed."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helm_python import Chart, HelmRenderError, HelmValuesError
from support.rendered import CHART, Document, documents

from retrain.config.fields import ConfigModel
from retrain.config.task import Task
from retrain.config.validation import config_models, models_by_name, validate_document
from retrain.errors import TaskError

CHART_LOADED = Chart.load(CHART)
STORE = "s3://bucket/prefix"
FLOWERS = {"flowers": {"store": STORE}}

WRONG = {
    "no task": ({}, "/tasks"),
    "a misspelt group": ({"wacther": {}}, "additional properties 'wacther' not allowed"),
    "a misspelt field": ({"watcher": {"replica": 2}}, "additional properties 'replica' not allowed"),
    "a misspelt field of Kubernetes": (
        {"watcher": {"tolerations": [{"keey": "nvidia.com/gpu"}]}},
        "additional properties 'keey' not allowed",
    ),
    "a misspelt nested field": (
        {"exporter": {"affinity": {"nodeAffinity": {"required": []}}}},
        "additional properties 'required' not allowed",
    ),
    "an unknown field of resources": ({"exporter": {"resources": {"request": {"cpu": 1}}}}, "'request' not allowed"),
    "an unknown kind of volume": (
        {"watcher": {"extraVolumes": [{"name": "a", "configmap": {}}]}},
        "'configmap' not allowed",
    ),
    "negative replicas": ({"watcher": {"replicas": -1}}, "minimum: got -1, want 0"),
    "text for a number": ({"exporter": {"replicas": "two"}}, "got string, want integer"),
    "a number for a label": ({"commonLabels": {"team": 7}}, "got number, want string"),
    "a port above 65535": ({"exporter": {"service": {"port": 70000}}}, "maximum: got 70,000, want 65,535"),
    "an unknown service type": ({"exporter": {"service": {"type": "Ingress"}}}, "value must be one of"),
    "an unknown pull policy": ({"image": {"pullPolicy": "Sometimes"}}, "value must be one of"),
    "a malformed digest": ({"image": {"digest": "latest"}}, "does not match pattern"),
    "an unknown executor": ({"watcher": {"executor": "laptop"}}, "value must be one of"),
    "an unknown log format": ({"logFormat": "xml"}, "value must be one of"),
    "an unknown field of a probe": ({"exporter": {"probes": {"livenessProbe": {"period": 3}}}}, "'period' not allowed"),
    "a poll interval of zero": ({"watcher": {"pollSeconds": 0}}, "exclusiveMinimum"),
    "a queue without a URL": ({"watcher": {"queueUrl": "retrain"}}, "does not match pattern"),
    "a cache size in words": ({"watcher": {"cacheSize": "big"}}, "does not match pattern"),
    "a schedule of four fields": ({"cronJob": {"schedule": "0 2 * *"}}, "does not match pattern"),
    "an endpoint without a scheme": ({"kubeflow": {"host": "ml-pipeline:8888"}}, "does not match pattern"),
    "an interval without a unit": ({"monitoring": {"interval": "30"}}, "does not match pattern"),
    "a runbook without a URL": ({"monitoring": {"runbook": "docs"}}, "does not match pattern"),
    "text for a boolean": ({"monitoring": {"rules": {"enabled": "yes"}}}, "got string, want boolean"),
    "an unknown field of a network peer": (
        {"networkPolicy": {"from": [{"namespace": "monitoring"}]}},
        "'namespace' not allowed",
    ),
    "a share of pods in words": (
        {"exporter": {"podDisruptionBudget": {"maxUnavailable": "half"}}},
        "does not match pattern",
    ),
}

WRONG_TASKS = {
    "no store": ({}, "missing property 'store'"),
    "a store in a folder": ({"store": "demo-store"}, "does not match pattern"),
    "an unknown field": ({"store": STORE, "epochs": 3}, "additional properties 'epochs' not allowed"),
    "an unknown kind": ({"store": STORE, "recipe": {"schedule": {"name": "cosin"}}}, "value must be 'cosine'"),
    "a field of another optimizer": (
        {"store": STORE, "training": {"optimizer": {"momentum": 0.9}}},
        "additional properties 'momentum' not allowed",
    ),
    "a share above one": ({"store": STORE, "gate": {"margin": 2}}, "maximum: got 2, want 1"),
    "an image size in words": ({"store": STORE, "data": {"image_size": "big"}}, "got string, want integer"),
    "a schedule of six fields": ({"store": STORE, "schedule": "0 0 2 * * *"}, "does not match pattern"),
    "an hour above 23": ({"store": STORE, "schedule": "0 25 * * *"}, "does not match pattern"),
    "an unknown effect of a toleration": (
        {"store": STORE, "resources": {"tolerations": [{"key": "a", "effect": "Never"}]}},
        "value must be one of",
    ),
    "memory in words": ({"store": STORE, "resources": {"memory": "lots"}}, "does not match pattern"),
}


def refusal(values: Document) -> str:
    """Return the error message about values that the chart must refuse."""
    with pytest.raises(HelmValuesError) as caught:
        CHART_LOADED.validate_schema(values)
    return str(caught.value)


def refuses(task: Document) -> bool:
    """Return whether the chart refuses a task."""
    try:
        CHART_LOADED.validate_schema({"tasks": {"flowers": task}})
    except HelmValuesError:
        return True
    return False


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_values_are_refused_by_name_and_cause(mistake: str) -> None:
    values, says = WRONG[mistake]
    assert says in refusal(values if mistake == "no task" else values | {"tasks": FLOWERS})


@pytest.mark.parametrize("mistake", WRONG_TASKS)
def test_wrong_task_is_refused_by_field_and_cause(mistake: str) -> None:
    task, says = WRONG_TASKS[mistake]
    sentence = refusal({"tasks": {"flowers": task}})
    assert says in sentence
    assert "/tasks/flowers" in sentence


@pytest.mark.parametrize("name", ["Flowers", "my_task", "-flowers", "a" * 64])
def test_invalid_task_name_is_refused(name: str) -> None:
    assert f"'{name}' does not match pattern" in refusal({"tasks": {name: {"store": STORE}}})


CRONS = ["0 2 * * *", "*/15 8-18 * * mon-fri", "0 0 1,15 * 0", "30 4 L * *", "0 9 * JAN-MAR MON#1", "0 22 * * 5L"]


@pytest.mark.parametrize("cron", CRONS)
def test_schedules_that_retrain_can_read_are_accepted(cron: str) -> None:
    validate_document({"name": "flowers", "schedule": cron}, "values")
    assert not refuses({"store": STORE, "schedule": cron})


def test_install_refuses_wrong_values() -> None:
    with pytest.raises(HelmValuesError, match="additional properties 'epochs' not allowed"):
        documents({"tasks": {"flowers": {"store": STORE, "epochs": 3}}})


@pytest.mark.parametrize("enabled", [True, False])
def test_chart_can_be_a_conditional_dependency(enabled: bool, tmp_path: Path) -> None:
    shutil.copytree(CHART, tmp_path / "charts" / "retrain")
    condition = {"name": "retrain", "version": "*", "condition": "retrain.enabled"}
    metadata = {"apiVersion": "v2", "name": "platform", "version": "1.0.0", "dependencies": [condition]}
    (tmp_path / "Chart.yaml").write_text(json.dumps(metadata))
    with Chart.load(tmp_path) as platform:
        rendered = platform.render(values={"retrain": {"enabled": enabled, "tasks": FLOWERS}}, name="p", namespace="ml")
    assert any("kind: Deployment" in text for text in rendered.values()) is enabled


def test_install_refuses_a_watched_task_on_several_nodes() -> None:
    several = {"flowers": {"store": STORE, "resources": {"nodes": 2}}}
    with pytest.raises(HelmRenderError, match=r"tasks\.flowers\.resources\.nodes: a pipeline trains on one"):
        documents({"tasks": several})
    unwatched = documents({"tasks": several, "watcher": {"enabled": False}})
    assert "Deployment" in {document["kind"] for document in unwatched}


def test_only_the_default_kind_may_omit_its_name() -> None:
    assert not refuses({"store": STORE, "recipe": {"schedule": {"scale": 0.5}}})
    assert not refuses({"store": STORE, "training": {"optimizer": {"name": "sgd", "momentum": 0.8}}})
    assert refuses({"store": STORE, "training": {"optimizer": {"momentum": 0.8}}})


def fields(model: type[ConfigModel], path: tuple[str, ...] = (), named: Document | None = None) -> Iterator[Document]:
    """Yield tasks with one changed field each. Every field of every part of a task gets several values."""
    for name, field in model.model_fields.items():
        for value in (None, True, -1, 0.5, 10**12, "", "wrong", [], [1, 2, 3], {}, {"wrong": 1}):
            if (*path, name) != ("name",):  # in the chart's values, the name is the key
                yield nested(path, (named or {}) | {name: value})
        for part in config_models(field):
            named_by = str(field.discriminator)
            kind = {named_by: part.model_fields[named_by].default} if models_by_name(field) else {}
            yield nested((*path, name), kind | {"wrong": 1})
            yield from fields(part, (*path, name), kind)


def nested(path: tuple[str, ...], value: Any) -> Document:
    for step in reversed(path):
        value = {step: value}
    assert isinstance(value, dict)
    return value


def is_budget_of_money(task: Document) -> bool:
    budget = task.get("trigger", {}).get("budget", {}) if isinstance(task.get("trigger"), dict) else {}
    return isinstance(budget, dict) and isinstance(budget.get("cost"), (int, float)) and budget["cost"] > 0


def test_chart_schema_refuses_every_task_that_check_refuses() -> None:
    wrong = {}
    for number, task in enumerate(fields(Task)):
        if is_budget_of_money(task):
            continue  # such a budget needs a price in another field, and no JSON schema can express this rule
        try:
            validate_document({"name": "flowers", "store": STORE} | task, "values")
        except TaskError:
            wrong[f"t{number}"] = {"store": STORE} | task
    sentence = refusal({"tasks": wrong})
    accepted = [task for name, task in wrong.items() if not re.search(f"/tasks/{name}['/]", sentence)]
    assert len(wrong) > 800
    assert accepted == []
