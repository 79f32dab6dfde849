"""Register a task's champions in a Kubeflow Model Registry.

The task becomes a registered model. Every promoted model becomes a version of it, named after its run, with an artifact
that has the address of the weights in the store. A version's property `status` says whether it is the champion, and the
property `champion` of the registered model names the champion's version. The next export completes an interrupted one.
"""

from pathlib import Path
from typing import Any, NamedTuple

from retrain.errors import UserError
from retrain.records import Champion, Plan, Promotion, RunRecord
from retrain.store.champions import standing_runs
from retrain.store.task_store import TaskStore
from retrain.tracking.figures import summary_of
from retrain.tracking.registry_client import PROBE, RegistryClient, Resource
from retrain.utils.parallel import map_ahead

STATE_OF = {"champion": "LIVE", "replaced": "LIVE", "rolled back": "ARCHIVED", "removed": "ARCHIVED"}
"""States of versions, by their status. `removed`: `retrain gc` has removed the model from the store."""
STATUS, LABEL = "status", "champion"
"""Properties of a version. `champion` has an empty value, because Kubeflow's pages show such a property as a label."""
OWNER = "retrain"


class Registered(NamedTuple):
    """Result of an export: the number of added versions, and the champion."""

    versions: int
    champion: str | None
    """Version that is now marked as the champion. None if there is no champion."""


def export_to_registry(store: TaskStore, address: str | None = None) -> Registered:
    """Update a Model Registry with a task's champions. The default is the registry at $MODEL_REGISTRY_URL.

    The export is repeated if the champion has changed meanwhile. If several processes export at the same time, the
    last one to write therefore writes the current champion. Raises `UserError` if there is no address, or the server is
    unreachable or refuses a request.
    """
    client, added = RegistryClient(address), 0
    while True:
        seen = store.champion.read()
        if seen.champion is None:
            return Registered(added, None)
        export = _Export(client, store, seen.champion)
        added += export.export()
        if store.champion.read().version == seen.version:
            return Registered(added, export.marked)


def probe_registry(task: str) -> str:
    """Ask the Model Registry of $MODEL_REGISTRY_URL for a task's model, and return a sentence about the answer.

    Raises `UserError` as `export_to_registry` does.
    """
    client = RegistryClient(timeout=PROBE)
    known = client.find("registered_model", task) is not None
    state = f"it has the model {task}" if known else f"the first export registers the model {task}"
    return f"{client.address} answers; {state}"


class _Export:
    """One export of a task that has a champion."""

    def __init__(self, client: RegistryClient, store: TaskStore, champion: Champion) -> None:
        self._client, self._store, self._champion = client, store, champion
        self._standing = frozenset(standing_runs(champion))
        self.marked: str | None = None
        """Version that is marked as the champion."""

    def export(self) -> int:
        """Add the missing versions, mark the champion's version, and return the number of added versions."""
        model = {"name": self._store.task, "owner": OWNER, "description": "Champions of retrain."}
        model = self._find_or_create("registered_model", "/registered_models", model)
        versions = self._client.find_all(f"/registered_models/{model['id']}/versions")
        known = {version["name"]: version for version in versions}
        first: dict[str, Promotion] = {}
        for entry in self._champion.history:
            first.setdefault(entry.run_id, entry)
        added = 0
        for entry, status in zip(first.values(), map_ahead(self._status_of, first), strict=True):
            version = known.get(entry.run_id)
            if version is None:
                version = self._add_version(entry, model["id"])
                added += version is not None
            if version is not None:
                self._mark_version(version, status)
        self._mark_model(model)
        return added

    def _status_of(self, run_id: str) -> str:
        if run_id == self._champion.run_id:
            return "champion"
        if self._store.run(run_id).removed():
            return "removed"
        return "replaced" if run_id in self._standing else "rolled back"

    def _add_version(self, entry: Promotion, model_id: str) -> Resource | None:
        """Create a version. If the ledger does not have the run yet, return None: a later export adds the version."""
        record = self._store.ledger.find(entry.run_id)
        if record is None:
            return None
        version = _describe(entry, record, self._store.run(entry.run_id).plan())
        version["registeredModelId"] = model_id
        return self._find_or_create("model_version", "/model_versions", version, model_id)

    def _mark_version(self, version: Resource, status: str) -> None:
        """If a version's status has changed, create its artifact if it is absent, and then set status and state."""
        if status == "champion":
            self.marked = version["name"]
        properties = version["customProperties"]
        if properties.get(STATUS) == _property(status):
            return
        if status != "removed":
            artifacts = f"/model_versions/{version['id']}/artifacts"
            self._find_or_create("model_artifact", artifacts, self._artifact(version["name"]), version["id"])
        properties = {name: value for name, value in properties.items() if name != LABEL}
        properties |= {STATUS: _property(status)} | ({LABEL: _property("")} if status == "champion" else {})
        changes = {"state": STATE_OF[status], "customProperties": properties}
        self._client.change(f"/model_versions/{version['id']}", changes)

    def _artifact(self, run_id: str) -> Resource:
        url = self._store.url if "://" in self._store.url else Path(self._store.url).absolute().as_uri()
        uri = f"{url}/{self._store.keys.run(run_id, 'model.safetensors')}"
        return {
            "artifactType": "model-artifact",
            "name": self._store.task,  # Kubeflow's client looks for an artifact with the model's name
            "uri": uri,
            "modelFormatName": "safetensors",
            "state": "LIVE",
        }

    def _mark_model(self, model: Resource) -> None:
        """Write the champion's version into the registered model. Keep the model's state and other properties."""
        properties = model["customProperties"]
        if self.marked and properties.get(LABEL) != _property(self.marked):
            properties = properties | {LABEL: _property(self.marked)}
            changes = {"state": model["state"], "customProperties": properties}
            self._client.change(f"/registered_models/{model['id']}", changes)

    def _find_or_create(self, kind: str, collection: str, resource: Resource, parent: str | None = None) -> Resource:
        """Return the resource of this name. Create it if it is absent, even if another process does so meanwhile."""
        name = resource["name"]
        found = self._client.find(kind, name, parent) or self._client.create(collection, resource)
        found = found or self._client.find(kind, name, parent)
        if found is None:
            raise UserError(f"the Model Registry refuses the {kind} {name} as a duplicate, but lists none of this name")
        return found


def _describe(entry: Promotion, record: RunRecord, plan: Plan) -> Resource:
    """Return the content of a new version. The version is archived until it has an artifact."""
    properties: dict[str, str | int | float] = dict(summary_of(record))
    properties |= {"method": record.method, "metric": record.metric, "dataset": record.dataset_digest}
    properties |= {"classes": len(plan.dataset.classes), "drops": len(record.drops)}
    if record.result and record.result.model_digest:
        properties |= {"sha256": record.result.model_digest, "retrain": record.result.machine.retrain}
    return {
        "name": record.run_id,
        "author": entry.author or OWNER,
        "description": f"{entry.why}: {entry.reason}" if entry.reason else entry.why,
        "state": "ARCHIVED",
        "customProperties": {name: _property(value) for name, value in properties.items()},
    }


def _property(value: str | int | float) -> dict[str, Any]:
    """Return a custom property by the type of its value."""
    if isinstance(value, str):
        return {"metadataType": "MetadataStringValue", "string_value": value}
    if isinstance(value, int):
        return {"metadataType": "MetadataIntValue", "int_value": str(value)}
    return {"metadataType": "MetadataDoubleValue", "double_value": value}
