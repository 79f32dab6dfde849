"""Export every promoted model to a Kubeflow Model Registry, and mark the champion in it.

Exports may be interrupted, repeated, and run at the same time. The tests use a simulated server, and a real server
if $RETRAIN_TEST_MODEL_REGISTRY has its address.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
import yaml
from support.model_registry import REGISTRIES, ask, open_registry, serving_registry
from support.workspaces import Workspace, make_task, run
from typer.testing import CliRunner

from retrain.cli import app
from retrain.errors import UserError
from retrain.records.retention import Removed
from retrain.store import LocalStore
from retrain.store.champions import Author
from retrain.store.task_store import TaskStore
from retrain.tracking import registry_client
from retrain.tracking.hook import TrackerUpdates, update_trackers
from retrain.tracking.model_registry import export_to_registry
from retrain.tracking.registry_client import RegistryClient
from retrain.utils.clock import utc_now

AWAY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a task in a store. Two of its models were promoted."""
    folder = tmp_path_factory.mktemp("registry")
    workspace = Workspace(LocalStore(folder / "store"), folder)
    for seed, classes in enumerate(((0, 1), (0, 1, 2))):
        workspace.land(*classes, seed=seed)
        assert run(workspace).ending == "promoted"
    return folder / "store" / "pets"


@pytest.fixture
def store(trained: Path, tmp_path: Path) -> TaskStore:
    """Return a copy of the store of `trained`, for a task with a new name."""
    name = f"pets-{uuid4().hex}"
    shutil.copytree(trained, tmp_path / "store" / name)
    return TaskStore(LocalStore(tmp_path / "store"), name)


@pytest.fixture(params=REGISTRIES)
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    with open_registry(request.param) as address:
        yield address


class RegistryContent(NamedTuple):
    """The resources of a task in a Model Registry."""

    model: Any
    versions: dict[str, Any]
    artifacts: dict[str, list[Any]]

    @property
    def champions(self) -> list[str]:
        """Return the versions that are marked as the champion."""
        return [name for name, version in self.versions.items() if _text(version, "status") == "champion"]

    @property
    def states(self) -> list[tuple[str | None, str]]:
        """Return status and state of all versions, oldest first."""
        return [(_text(version, "status"), version["state"]) for version in self.versions.values()]


def read_registry(address: str, store: TaskStore) -> RegistryContent:
    _, model = ask(address, "GET", "registered_model", name=store.task)
    items = ask(address, "GET", f"registered_models/{model['id']}/versions")[1]["items"]
    versions = {item["name"]: item for item in items}
    assert len(versions) == len(items)
    artifacts = {
        item["name"]: ask(address, "GET", f"model_versions/{item['id']}/artifacts")[1]["items"] for item in items
    }
    return RegistryContent(model, versions, artifacts)


def _text(resource: Any, name: str) -> str | None:
    return resource["customProperties"].get(name, {}).get("string_value")


def _roll_back(store: TaskStore) -> str:
    """Make the first model the champion again, and return its run."""
    seen = store.champion.read()
    first = seen.champion.history[0].run_id
    store.champion.swap(seen, first, "rolled back", Author("ann", "too slow"))
    return first


def test_champions_are_registered_with_their_results(store: TaskStore, address: str) -> None:
    first, second = (entry.run_id for entry in store.champion.read().champion.history)
    assert export_to_registry(store, address) == (2, second)
    found = read_registry(address, store)
    assert found.model["state"] == "LIVE"
    assert _text(found.model, "champion") == second
    assert list(found.versions) == [first, second]
    assert found.states == [("replaced", "LIVE"), ("champion", "LIVE")]
    assert [_text(version, "champion") for version in found.versions.values()] == [None, ""]
    record, properties = store.ledger.find(second), found.versions[second]["customProperties"]
    assert properties["test/accuracy"] == _double(record.evaluation.accuracy)
    assert properties["saved/net"] == _double(record.savings.net)
    assert properties["target"] == _double(record.target.accuracy)
    assert properties["classes"] == {"metadataType": "MetadataIntValue", "int_value": "3"}
    assert properties["sha256"]["string_value"] == record.result.model_digest
    assert found.versions[second]["author"] == "retrain"
    [artifact] = found.artifacts[second]
    assert artifact["uri"] == f"file://{store.url}/{store.task}/runs/{second}/model.safetensors"
    assert Path(artifact["uri"].removeprefix("file://")).exists()
    assert (artifact["name"], artifact["modelFormatName"]) == (store.task, "safetensors")
    assert artifact["state"] == "LIVE"


def _double(value: float) -> dict[str, Any]:
    return {"metadataType": "MetadataDoubleValue", "double_value": pytest.approx(value, rel=1e-12)}


def test_repeated_registration_changes_nothing(store: TaskStore, address: str) -> None:
    export_to_registry(store, address)
    before = read_registry(address, store)
    assert export_to_registry(store, address).versions == 0
    assert read_registry(address, store) == before  # including the times of the last changes


def test_interrupted_registration_is_completed(store: TaskStore, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the export after each request that changes something. The next export continues there.

    Until a version has its artifact, it is archived.
    """
    cuts = 0
    with monkeypatch.context() as patched:
        for name in ("create", "change"):
            patched.setattr(RegistryClient, name, _dying_after(getattr(RegistryClient, name)))
        while True:
            try:
                export_to_registry(store, address)
                break
            except KeyboardInterrupt:
                cuts += 1
            found = read_registry(address, store)
            assert all(
                version["state"] == "ARCHIVED" or found.artifacts[name] for name, version in found.versions.items()
            )
    assert cuts == 8  # the model, two versions with artifacts, their two states, and the champion
    found = read_registry(address, store)
    assert found.states == [("replaced", "LIVE"), ("champion", "LIVE")]
    assert _text(found.model, "champion") == found.champions[0] == store.champion.read().run_id
    assert [len(artifacts) for artifacts in found.artifacts.values()] == [1, 1]


def _dying_after(call: Any) -> Any:
    def called(*arguments: Any) -> None:
        call(*arguments)
        raise KeyboardInterrupt

    return called


def test_registered_champion_follows_a_rollback(store: TaskStore, address: str) -> None:
    second = store.champion.read().run_id
    export_to_registry(store, address)
    first = _roll_back(store)
    assert export_to_registry(store, address) == (0, first)
    found = read_registry(address, store)
    assert found.states == [("champion", "LIVE"), ("rolled back", "ARCHIVED")]
    assert (_text(found.model, "champion"), found.champions) == (first, [first])
    store.champion.swap(store.champion.read(), second, "promoted by hand", Author("ann"))
    assert export_to_registry(store, address) == (0, second)
    found = read_registry(address, store)
    assert found.states == [("replaced", "LIVE"), ("champion", "LIVE")]
    assert [_text(version, "champion") for version in found.versions.values()] == [None, ""]


def test_version_whose_model_was_removed_is_archived(store: TaskStore, address: str) -> None:
    first = store.champion.read().champion.history[0].run_id
    export_to_registry(store, address)
    store.run(first).write_removed(Removed(run_id=first, at=utc_now(), bytes=1))
    export_to_registry(store, address)
    assert read_registry(address, store).states == [("removed", "ARCHIVED"), ("champion", "LIVE")]


def test_removed_model_is_registered_without_artifact(store: TaskStore, address: str) -> None:
    first, second = (entry.run_id for entry in store.champion.read().champion.history)
    store.run(first).write_removed(Removed(run_id=first, at=utc_now(), bytes=1))
    export_to_registry(store, address)
    found = read_registry(address, store)
    assert found.states == [("removed", "ARCHIVED"), ("champion", "LIVE")]
    assert (found.artifacts[first], len(found.artifacts[second])) == ([], 1)


def test_changes_by_people_in_the_registry_stay(store: TaskStore, address: str) -> None:
    """A person archives the model and its first version, and adds labels. Later exports keep these changes."""
    export_to_registry(store, address)
    first = _roll_back(store)
    export_to_registry(store, address)
    found = read_registry(address, store)
    label = {"reviewed": {"metadataType": "MetadataStringValue", "string_value": ""}}
    for path, resource in (
        (f"registered_models/{found.model['id']}", found.model),
        (f"model_versions/{found.versions[first]['id']}", found.versions[first]),
    ):
        changes = {"state": "ARCHIVED", "customProperties": resource["customProperties"] | label}
        assert ask(address, "PATCH", path, changes)[0] == 200
    export_to_registry(store, address)
    assert read_registry(address, store).states[0] == ("champion", "ARCHIVED")
    second = list(found.versions)[1]
    store.champion.swap(store.champion.read(), second, "promoted by hand", Author("ann"))
    export_to_registry(store, address)
    found = read_registry(address, store)
    assert (found.model["state"], _text(found.model, "champion")) == ("ARCHIVED", second)
    assert _text(found.model, "reviewed") == _text(found.versions[first], "reviewed") == ""


def test_export_reads_versions_from_all_pages(store: TaskStore, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_client, "PAGE", 1)
    assert export_to_registry(store, address).versions == 2
    assert export_to_registry(store, address).versions == 0
    assert len(read_registry(address, store).versions) == 2


def test_resource_that_another_process_creates_is_used(
    store: TaskStore, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process creates each resource after this process has searched for it. The server refuses duplicates."""
    find, seen = RegistryClient.find, set()

    def find_too_early(client: RegistryClient, *what: Any) -> Any:
        if what in seen:
            return find(client, *what)
        seen.add(what)
        return None

    export_to_registry(store, address)
    before = read_registry(address, store)
    monkeypatch.setattr(RegistryClient, "find", find_too_early)
    monkeypatch.setattr(RegistryClient, "find_all", lambda *_: iter(()))
    export_to_registry(store, address)
    assert read_registry(address, store) == before


def test_export_marks_a_champion_that_changed_meanwhile(
    store: TaskStore, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = RegistryClient.change

    def change_after_rollback(*arguments: Any) -> None:
        if len(store.champion.read().champion.history) == 2:
            _roll_back(store)
        change(*arguments)

    monkeypatch.setattr(RegistryClient, "change", change_after_rollback)
    first = store.champion.read().champion.history[0].run_id
    assert export_to_registry(store, address) == (2, first)
    found = read_registry(address, store)
    assert found.states == [("champion", "LIVE"), ("rolled back", "ARCHIVED")]
    assert _text(found.model, "champion") == first


def test_promoted_model_without_record_is_registered_later(store: TaskStore, address: str) -> None:
    second = store.champion.read().run_id
    record = Path(store.url) / store.keys.record(second)
    content = record.read_bytes()
    record.unlink()
    assert export_to_registry(store, address) == (1, None)
    assert read_registry(address, store).model["customProperties"] == {}
    record.write_bytes(content)
    assert export_to_registry(store, address) == (1, second)


def test_task_without_champion_registers_no_model(store: TaskStore) -> None:
    (Path(store.url) / store.keys.champion).unlink()
    assert export_to_registry(store, AWAY) == (0, None)


def _write_task(store: TaskStore, folder: Path) -> str:
    file = folder / f"{store.task}.yaml"
    file.write_text(yaml.safe_dump({"name": store.task, "store": store.url, "tracking": {"model_registry": True}}))
    return str(file)


def test_unreachable_registry_does_not_stop_a_rollback(
    store: TaskStore, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`retrain rollback` warns, and `retrain track` registers everything later."""
    task, first = _write_task(store, tmp_path), store.champion.read().champion.history[0].run_id
    monkeypatch.setenv("MODEL_REGISTRY_URL", AWAY)
    done = CliRunner().invoke(app, ["rollback", "--task", task, "--yes"])
    assert (done.exit_code, store.champion.read().run_id) == (0, first)
    assert f"{store.task} is not up to date in the Model Registry; `retrain track` exports it again: " in caplog.text
    monkeypatch.setenv("MODEL_REGISTRY_URL", address)
    done = CliRunner().invoke(app, ["track", "--task", task, "--to", "model-registry"])
    assert done.output == f"2 model versions added; champion is {first}\n"
    found = read_registry(address, store)
    assert found.states == [("champion", "LIVE"), ("rolled back", "ARCHIVED")]
    assert found.versions[first]["description"] == "promoted"


def test_watcher_registers_each_new_champion_once(
    store: TaskStore, address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The watcher contacts the server again only after a change of the champion."""
    updates = TrackerUpdates(make_task(tracking={"model_registry": True}), store)
    monkeypatch.setenv("MODEL_REGISTRY_URL", address)
    updates.follow()
    assert read_registry(address, store).champions == [store.champion.read().run_id]
    monkeypatch.setenv("MODEL_REGISTRY_URL", AWAY)
    updates.follow()
    assert "not up to date" not in caplog.text
    _roll_back(store)
    updates.follow()
    assert "not up to date in the Model Registry" in caplog.text


def test_failing_tracker_does_not_stop_the_other_tracker(
    store: TaskStore, address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MODEL_REGISTRY_URL", address)
    assert not update_trackers(make_task(tracking={"mlflow": True, "model_registry": True}), store)
    assert "not up to date in MLflow" in caplog.text
    assert "not up to date in the Model Registry" not in caplog.text
    assert read_registry(address, store).champions == [store.champion.read().run_id]


def test_registry_export_needs_an_address(store: TaskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODEL_REGISTRY_URL", raising=False)
    with pytest.raises(UserError, match=r"no Model Registry: set \$MODEL_REGISTRY_URL, or pass --uri"):
        export_to_registry(store)


def test_registry_refusals_name_server_and_request(store: TaskStore, address: str) -> None:
    with pytest.raises(UserError, match=r"Model Registry at http://127\.0\.0\.1:9: .*Connection refused"):
        export_to_registry(store, AWAY)
    with pytest.raises(UserError, match=r"/elsewhere: answered 404 to GET /registered_model: 404 page not found"):
        export_to_registry(store, f"{address}/elsewhere")
    with pytest.raises(UserError, match=r"answered 400 to GET /model_version: invalid parameters call"):
        RegistryClient(address).find("model_version", "r1")


def test_registry_gets_the_token_of_the_environment(
    store: TaskStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If $MODEL_REGISTRY_TOKEN is not set, the client reads the token from the file $MODEL_REGISTRY_TOKEN_FILE."""
    for name in ("MODEL_REGISTRY_TOKEN", "MODEL_REGISTRY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    with serving_registry() as (address, registry):
        RegistryClient(address).find("registered_model", "pets")
        monkeypatch.setenv("MODEL_REGISTRY_TOKEN_FILE", str(tmp_path / "token"))
        with pytest.raises(UserError, match=r"\$MODEL_REGISTRY_TOKEN_FILE: .*/token cannot be read: No such"):
            RegistryClient(address)
        (tmp_path / "token").write_text("from-file\n")
        RegistryClient(address).find("registered_model", "pets")
        monkeypatch.setenv("MODEL_REGISTRY_TOKEN", "given")
        RegistryClient(address).find("registered_model", "pets")
    assert registry.tokens == [None, "Bearer from-file", "Bearer given"]
