"""Render the chart with Helm's SDK, and validate its documents against Kubernetes' schemas."""

from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from helm_python import Chart, values_from_yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "retrain"
CI = {path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))}
VERSIONS = ("1.30", "1.31", "1.32", "1.33", "1.34")
CUSTOM = {
    "ClusterQueue",
    "ContainerNodePool",
    "EC2NodeClass",
    "EventBus",
    "EventSource",
    "HTTPRoute",
    "InferenceService",
    "Kustomization",
    "LocalQueue",
    "NodePool",
    "PodMonitor",
    "PrometheusRule",
    "ResourceFlavor",
    "Sensor",
    "ServiceMonitor",
    "WorkloadPriorityClass",
}
"""Kinds of documents without a schema in Kubernetes. Documents of all other kinds are validated."""

Document = dict[str, Any]


def render(values: Document, namespace: str = "ml") -> dict[str, str]:
    """Return the rendered templates by their path in the chart."""
    with Chart.load(CHART) as chart:
        return {
            path.partition("/templates/")[2]: text
            for path, text in chart.render(values=values, name="retrain", namespace=namespace).items()
        }


def documents(values: Document, namespace: str = "ml") -> list[Document]:
    """Return all documents that Helm would send to a cluster."""
    texts = [text for path, text in render(values, namespace).items() if path.endswith(".yaml")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


@cache
def feature(name: str) -> list[Document]:
    """Return the documents of one of the chart's `ci` values files."""
    return documents(values_of(name))


def values_of(name: str) -> Document:
    """Return the content of one of the chart's `ci` values files, as Helm reads it."""
    return values_from_yaml(CI[name].read_text())


def one(found: list[Document], kind: str, name: str) -> Document:
    """Return the only document of this kind and name."""
    (document,) = (doc for doc in found if (doc["kind"], doc["metadata"]["name"]) == (kind, name))
    return document


def pods(found: list[Document]) -> list[Document]:
    """Return every pod and pod template, as metadata and spec."""
    templates = {
        "Pod": lambda doc: doc,
        "Deployment": lambda doc: doc["spec"]["template"],
        "Job": lambda doc: doc["spec"]["template"],
        "CronJob": lambda doc: doc["spec"]["jobTemplate"]["spec"]["template"],
    }
    return [templates[doc["kind"]](doc) for doc in found if doc["kind"] in templates]


def validate(found: list[Document], seen: set[str]) -> None:
    """Validate each document that is not in `seen` against all `VERSIONS` of Kubernetes. Fail if `found` is empty."""
    assert found
    for document in found:
        text = yaml.safe_dump(document)
        if document["kind"] not in CUSTOM and text not in seen:
            seen.add(text)
            for version in VERSIONS:
                kubernetes_validate.validate(document, version, strict=True)
