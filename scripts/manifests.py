"""`make manifests`: write the chart's values schema, its README, and the plain manifests.

The values schema is `values.schema.yaml` with the schemas of task files and of Kubernetes types inserted. The
installation of the chart therefore refuses a task that `retrain task check` would refuse, and a misspelled toleration.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart
from kubernetes_validate.utils import schema_contents
from values_table import chart_page

from retrain.config.template import task_schema

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "retrain"
KUBERNETES = "1.34"
FOLDERS = {
    "watcher-cronjob": "cronjob",
    "gc-cronjob": "gc",
    "rbac": "multi-user",
    **dict.fromkeys(("servicemonitor", "podmonitors", "prometheusrule", "dashboards"), "monitoring"),
}
"""Folders of optional templates. All other templates go to `retrain`."""
OF_HELM = re.compile(
    r"^ *(annotations:\n *# Task files .*\n *checksum/tasks|helm.sh/chart|[a-z0-9.]*/managed-by):.*\n"
    r'|^  namespace: "retrain"\n',
    re.MULTILINE,
)
"""Lines that only Helm uses: its labels, the release's namespace, and the checksum. Each kustomization sets the
namespace. The checksum would be wrong after a file is edited."""


Schema = dict[str, Any]


def main(target: Path = ROOT) -> None:
    """Write all generated files."""
    write(target / "charts" / "retrain" / "values.schema.json", json.dumps(values_schema(), indent=1) + "\n")
    write(target / "charts" / "retrain" / "README.md", chart_page((CHART / "values.yaml").read_text()))
    for path, text in manifests().items():
        write(target / "k8s" / path, text)


def write(path: Path, text: str) -> None:
    """Write a file, and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def values_schema() -> Schema:
    """Return the chart's values schema, without references to other files."""
    document: Schema = yaml.safe_load((ROOT / "charts" / "values.schema.yaml").read_text())
    known = {**_task_definitions(), **_kubernetes_definitions()}
    wanted = sorted(set(_references(document)) - {f"#/$defs/{name}" for name in document["$defs"]})
    for reference in wanted:  # the loop extends this list
        name = reference.removeprefix("#/$defs/")
        document["$defs"][name] = known[name]
        wanted += sorted(set(_references(known[name])) - set(wanted))
    return document


def _task_definitions() -> dict[str, Schema]:
    """Return the schemas of task files as in `values.yaml`, and of the parts of a task."""
    document = _prefixed(task_schema())
    definitions: dict[str, Schema] = {f"task.{name}": part for name, part in document.pop("$defs").items()}
    properties = document["properties"]
    del properties["name"]
    properties["store"] |= {"pattern": "^(s3|gs|az)://[^/]"}
    return definitions | {"task": document | {"required": ["store"]}}


def _prefixed(schema: Schema) -> Schema:
    prefixed: Schema = json.loads(json.dumps(schema).replace('"#/$defs/', '"#/$defs/task.'))
    return prefixed


def _kubernetes_definitions() -> dict[str, Schema]:
    """Return the strict schemas of all Kubernetes types, without descriptions. Descriptions are most of their size."""
    path = f"kubernetes-json-schema/v{KUBERNETES}.0-local-strict/_definitions.json"
    return {name: _bare(definition) for name, definition in schema_contents(path, KUBERNETES)["$defs"].items()}


def _bare(node: Any) -> Any:
    """Return a schema without descriptions.

    A property with the name `description` is a schema, not text, and stays.
    """
    if isinstance(node, list):
        return [_bare(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: _bare(value) for key, value in node.items() if key != "description" or isinstance(value, dict)}


def _references(node: Any) -> Iterator[str]:
    """Yield every `$ref` in a schema."""
    if isinstance(node, list):
        for item in node:
            yield from _references(item)
    elif isinstance(node, dict):
        if isinstance(reference := node.get("$ref"), str):
            yield reference
        for value in node.values():
            yield from _references(value)


def manifests() -> dict[str, str]:
    """Return the plain manifests by their path in `k8s/`, with a kustomization for each folder."""
    values = yaml.safe_load((ROOT / "k8s" / "values.yaml").read_text())
    with Chart.load(CHART) as chart:
        rendered = chart.render(values=values, name="retrain", namespace="retrain")
    folders: dict[str, dict[str, str]] = {}
    for template, text in sorted(rendered.items()):
        name = template.partition("/templates/")[2].removesuffix(".yaml")
        if text.strip() and "." not in name and "/" not in name:
            folders.setdefault(FOLDERS.get(name, "retrain"), {})[f"{name}.yaml"] = OF_HELM.sub("", text).strip() + "\n"
    return {
        f"{folder}/{name}": text
        for folder, files in folders.items()
        for name, text in (files | {"kustomization.yaml": _kustomization(folder, files)}).items()
    }


def _kustomization(folder: str, files: dict[str, str]) -> str:
    document = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": sorted(files)}
    # The roles of multi-user Kubeflow belong to the namespace of its runs.
    return yaml.safe_dump(document if folder == "multi-user" else document | {"namespace": "retrain"}, sort_keys=False)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
