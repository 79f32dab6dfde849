"""`retrain doctor` finds problems that would prevent a run, and names the remedy."""

import json
from email.utils import formatdate
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.clouds import cloud_store
from support.faulty_s3 import Forward, Reply, Request, faulty, refusal
from support.kfp_server import serving
from support.model_registry import serving_registry
from support.pictures import two_classes
from support.streams import KEYS, SETTING, streaming, two_drops
from support.terminal import retrain
from support.trainings import SIZE, TASK
from support.workspaces import Workspace, make_task

from retrain.config.task import Data, Task
from retrain.data.cache import load_decoded
from retrain.data.packing import pack
from retrain.doctor.examination import NEEDED
from retrain.doctor.machine import disk_bytes_needed
from retrain.models import factory
from retrain.pipeline import stages
from retrain.pipeline.planning import Request as Asked
from retrain.records import Drop
from retrain.records.drop import drop_digest
from retrain.store import LocalStore, open_store
from retrain.store.task_store import TaskStore

STORE_CHECKS = ["credentials", "store", "conditional writes", "clock"]


class Doctor:
    """A caller of `retrain doctor` on a task with the given store."""

    def __init__(self, folder: Path, output: pytest.CaptureFixture[str]) -> None:
        self.file, self.output = folder / "pets.yaml", output

    def __call__(
        self, store: str, *arguments: str, endpoint: str | None = None, data: Data = TASK.data
    ) -> tuple[int, dict[str, dict[str, str]]]:
        task = Task(name="pets", store=store, endpoint_url=endpoint, data=data)
        self.file.write_text(task.model_dump_json())
        ran = retrain(["doctor", "-t", str(self.file), "--json", *arguments], self.output)
        return ran.code, {finding["check"]: finding for finding in json.loads(ran.out)}


@pytest.fixture
def doctor(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Doctor:
    monkeypatch.setenv("RETRAIN_CACHE", str(tmp_path / "cache"))
    return Doctor(tmp_path, capfd)


def states(found: dict[str, dict[str, str]]) -> dict[str, str]:
    return {check: finding["state"] for check, finding in found.items()}


def test_working_store_passes_the_store_and_disk_checks(doctor: Doctor, s3: str, bucket: str) -> None:
    code, found = doctor(f"s3://{bucket}/models", endpoint=s3)
    assert code == 0
    assert {states(found)[check] for check in [*STORE_CHECKS, "disk"]} == {"ok"}
    assert states(found)["kubeflow"] == "warning"
    assert found["credentials"]["found"] == "by env"


def test_doctor_accepts_a_folder_and_writes_no_object(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    code, found = doctor(str(tmp_path / "store"))
    assert code == 0
    assert {states(found)[check] for check in STORE_CHECKS} == {"ok"}
    assert [path.name for path in (tmp_path / "store").iterdir() if not path.name.startswith(".")] == []


def test_missing_store_folder_is_a_warning_and_not_created(doctor: Doctor, tmp_path: Path) -> None:
    code, found = doctor(str(tmp_path / "misspelt"))
    assert (code, found["store"]["state"]) == (0, "warning")
    assert found["store"]["found"] == f"{tmp_path / 'misspelt'} does not exist yet"
    assert states(found)["plan"] == "ok"
    assert not (tmp_path / "misspelt").exists()


def test_store_below_a_file_fails_the_check(doctor: Doctor, tmp_path: Path) -> None:
    code, found = doctor(f"{doctor.file}/store")
    assert (code, found["store"]["state"]) == (1, "failed")
    assert f"nor created in {doctor.file}" in found["store"]["found"]
    assert doctor(str(doctor.file))[1]["store"]["state"] == "failed"


@pytest.mark.parametrize(
    ("scheme", "method"), [("gs", "by GOOGLE_SERVICE_ACCOUNT_KEY"), ("az", "by AZURE_STORAGE_ACCOUNT_KEY")]
)
def test_doctor_accepts_a_store_in_a_cloud(
    doctor: Doctor, scheme: str, method: str, request: pytest.FixtureRequest
) -> None:
    url, server = cloud_store(scheme, request)
    code, found = doctor(url, endpoint=server)
    assert code == 0
    assert {states(found)[check] for check in STORE_CHECKS} == {"ok"}
    assert found["credentials"]["found"] == method
    assert list(open_store(url, server).list()) == []


def test_missing_credentials_are_reported_with_the_remedy(
    doctor: Doctor, s3: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    code, found = doctor(f"s3://{bucket}", endpoint=s3)
    assert code == 1
    assert found["credentials"]["state"] == "failed"
    assert "AWS_ACCESS_KEY_ID" in found["credentials"]["mend"]
    assert "store" not in found  # this check would fail for the same reason


def test_missing_bucket_fails_with_advice_to_create_it(doctor: Doctor, s3: str) -> None:
    code, found = doctor("s3://not-created/x", endpoint=s3)
    assert code == 1
    assert found["store"]["state"] == "failed"
    assert "Create the bucket" in found["store"]["found"]


def test_server_that_ignores_write_conditions_is_reported(doctor: Doctor, s3: str, bucket: str) -> None:
    def forgetful(request: Request, forward: Forward) -> Reply:
        request.headers = {k: v for k, v in request.headers.items() if k.lower() not in ("if-none-match", "if-match")}
        return forward(request)

    with faulty(s3, forgetful) as endpoint:
        code, found = doctor(f"s3://{bucket}", endpoint=endpoint)
    assert code == 1
    assert found["conditional writes"]["state"] == "failed"
    assert "If-None-Match" in found["conditional writes"]["found"]


def test_clock_skew_is_reported_with_its_size(doctor: Doctor, s3: str, bucket: str) -> None:
    def early(request: Request, forward: Forward) -> Reply:
        reply = forward(request)
        reply.headers = {k: v for k, v in reply.headers.items() if k.lower() != "date"} | {
            "Date": formatdate(0, usegmt=True)
        }
        return reply

    with faulty(s3, early) as endpoint:
        code, found = doctor(f"s3://{bucket}", endpoint=endpoint)
    assert code == 1
    assert "ahead of the store's" in found["clock"]["found"]
    assert "timedatectl" in found["clock"]["mend"]


def test_clock_that_the_server_refuses_is_reported(doctor: Doctor, s3: str, bucket: str) -> None:
    with faulty(s3, lambda *_: refusal(403, "RequestTimeTooSkewed")) as endpoint:
        code, found = doctor(f"s3://{bucket}", endpoint=endpoint)
    assert code == 1
    assert "Set this machine's clock" in found["store"]["found"]


def test_unwritable_cache_folder_fails_the_disk_check(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAIN_CACHE", "/proc/retrain")  # not even root can write there
    code, found = doctor(str(tmp_path / "store"))
    assert code == 1
    assert "/proc/retrain cannot be written" in found["disk"]["found"]
    assert "$RETRAIN_CACHE" in found["disk"]["mend"]


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_missing_files_of_drops_are_listed(
    doctor: Doctor, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    endpoint = request.getfixturevalue("s3") if kind == "s3" else None
    url = f"s3://{request.getfixturevalue('bucket')}/models" if endpoint else str(tmp_path / "store")
    store = open_store(url, endpoint)
    first, second = two_drops(store, tmp_path)
    small = ("--set", "model.name=logistic")
    code, found = doctor(url, *small, endpoint=endpoint)
    files = len(first.shards) + len(second.shards) + 2
    assert (code, found["files of drops"]["found"]) == (0, f"{files} files of 2 drops, none missing")
    assert second.sample_list
    gone = [second.sample_list.name, second.shards[1].name]
    for name in gone:
        store.delete(KEYS.drop_file(second.id, name))
    code, found = doctor(url, *small, endpoint=endpoint)
    assert (code, found["files of drops"]["state"], found["disk"]["state"]) == (1, "failed", "ok")
    assert found["files of drops"]["found"] == f"missing: {', '.join(f'd-2/{name}' for name in sorted(gone))}"
    assert "from a copy of the store" in found["files of drops"]["mend"]


def test_doctor_warns_of_quarantined_drops(doctor: Doctor, tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    two_drops(LocalStore(tmp_path / "store"), tmp_path)
    TaskStore(open_store(url), "pets").drops.quarantine("d-2", "damaged")
    code, found = doctor(url, "--set", "model.name=logistic")
    assert (code, found["files of drops"]["state"]) == (0, "warning")
    assert found["files of drops"]["found"] == "1 drop in quarantine: d-2"
    assert "delete its quarantine.json" in found["files of drops"]["mend"]


def huge_drop(folder: Path) -> Drop:
    """Return a drop whose manifest declares more bytes than any disk can hold."""
    store = LocalStore(folder / "store")
    [(drop, *_)] = pack(two_classes(folder / "pets"), TASK, TaskStore(store, TASK.name))
    huge = drop.model_copy(update={"id": "d-huge", "counts": {**drop.counts, "train": {"cat": 10**12}}})
    huge = huge.model_copy(update={"digest": drop_digest(huge)})
    store.create(KEYS.manifest(huge.id), huge.to_bytes())
    return huge


def test_disk_check_needs_less_space_for_streamed_data(doctor: Doctor, tmp_path: Path) -> None:
    huge_drop(tmp_path)
    code, found = doctor(str(tmp_path / "store"), data=Data(image_size=SIZE, loader="memory"))
    assert (code, found["disk"]["state"]) == (1, "failed")
    assert "need 192000.00 GB" in found["disk"]["found"]
    _, found = doctor(str(tmp_path / "store"))
    assert found["disk"]["state"] == "ok"
    assert "streamed drops that are not cached yet need 0.00 GB" in found["disk"]["found"]


def test_cached_data_needs_no_more_disk_space(tmp_path: Path) -> None:
    store, cache = TaskStore(LocalStore(tmp_path / "store"), KEYS.task), tmp_path / "cache"
    drops = two_drops(store.objects, tmp_path)
    each = 3 * SIZE**2
    assert disk_bytes_needed(TASK, drops, False, store, cache) == 500 * each
    load_decoded(drops[0], store, SIZE, cache)
    assert disk_bytes_needed(TASK, drops, False, store, cache) == 200 * each
    load_decoded(drops[1], store, SIZE, cache)
    assert disk_bytes_needed(TASK, drops, False, store, cache) == 0


def test_stream_disk_need_shrinks_as_its_cache_fills(tmp_path: Path) -> None:
    store, cache = TaskStore(LocalStore(tmp_path / "store"), KEYS.task), tmp_path / "cache"
    drops = two_drops(store.objects, tmp_path)
    held_out = sum(drop.samples(split) for drop in drops for split in ("val", "test")) * 3 * SIZE**2
    shards = sum(shard.size for drop in drops for shard in drop.shards)

    def with_cache(size: int) -> Task:
        stream = SETTING.model_copy(update={"cache": str(size)})
        return TASK.model_copy(update={"data": TASK.data.model_copy(update={"stream": stream})})

    assert disk_bytes_needed(with_cache(2 * shards), drops, True, store, cache) == held_out + shards
    assert disk_bytes_needed(with_cache(shards // 2), drops, True, store, cache) == held_out + shards // 2
    streaming(store.objects, cache, SETTING.model_copy(update={"cache": str(2 * shards)}))
    assert disk_bytes_needed(with_cache(2 * shards), drops, True, store, cache) == 0
    assert disk_bytes_needed(with_cache(shards // 2), drops, True, store, cache) == 0


def test_damaged_manifest_does_not_block_the_plan_check(doctor: Doctor, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    pack(two_classes(tmp_path / "pets"), TASK, TaskStore(store, TASK.name))
    store.write(KEYS.manifest("d-torn"), b"{")
    code, found = doctor(str(tmp_path / "store"))
    assert code == 0
    assert "1 drop of task pets" in found["store"]["found"]
    assert {states(found)[check] for check in [*STORE_CHECKS, "disk"]} == {"ok"}
    assert states(found)["plan"] == "warning"


def champion(folder: Path) -> tuple[Workspace, str]:
    """Return a workspace whose first run was promoted, and the run's id."""
    workspace = Workspace(LocalStore(folder / "store"), folder)
    workspace.land(0, 1)
    stages.run_task(workspace.context, make_task(), Asked())
    run_id = workspace.store.champion.read().run_id
    assert run_id
    return workspace, run_id


def test_damaged_champion_or_model_skips_the_plan_check(doctor: Doctor, tmp_path: Path) -> None:
    workspace, run_id = champion(tmp_path)
    small = ("--set", "model.name=logistic")
    code, found = doctor(workspace.store.url, *small)
    assert code == 0
    assert found["plan"]["found"].startswith(f"nothing to do: no drop has landed since champion {run_id}")
    assert found["champion"]["found"].startswith(run_id)
    model = workspace.store.keys.run(run_id, "model.safetensors")
    workspace.store.objects.write(model, workspace.store.objects.read(model)[0][:-1])
    code, found = doctor(workspace.store.url, *small)
    assert (code, found["champion"]["state"]) == (1, "failed")
    assert f"{model} is not the model" in found["champion"]["found"]
    assert "retrain rollback" in found["champion"]["mend"]
    assert "plan" not in found
    workspace.store.objects.write(workspace.store.keys.champion, b"{")
    code, found = doctor(workspace.store.url, *small)
    assert (code, found["champion"]["state"]) == (1, "failed")
    assert "champion.json was not written" in found["champion"]["found"]
    assert "plan" not in found  # this check would fail for the same reason


def test_champion_of_changed_code_fails_its_check(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, run_id = champion(tmp_path)
    monkeypatch.setitem(factory.OWN, "logistic", factory.mlp)
    code, found = doctor(workspace.store.url, "--set", "model.name=mlp")
    assert (code, found["champion"]["state"]) == (1, "failed")
    assert f"the weights of {run_id} do not match the network logistic" in found["champion"]["found"]
    assert found["champion"]["mend"] == NEEDED


def test_unreadable_ledger_fails_the_plan_check(doctor: Doctor, tmp_path: Path) -> None:
    workspace, run_id = champion(tmp_path)
    workspace.store.objects.write(workspace.store.keys.record(run_id), b"{")
    code, found = doctor(workspace.store.url, "--set", "model.name=logistic")
    assert (code, states(found)["champion"], states(found)["plan"]) == (1, "ok", "failed")
    assert workspace.store.keys.record(run_id) in found["plan"]["found"]


@pytest.mark.parametrize("name", ["resnet99", "nomod:fn"])
def test_unbuildable_network_fails_before_the_first_drop(doctor: Doctor, tmp_path: Path, name: str) -> None:
    code, found = doctor(str(tmp_path / "store"), "--set", f"model.name={name}")
    assert (code, found["model"]["state"]) == (1, "failed")
    assert name in found["model"]["found"]
    assert "model.name" in found["model"]["mend"]
    assert "plan" not in found  # this check would fail for the same reason


def test_weights_of_another_network_fail_the_model_check(doctor: Doctor, tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(4, 3, 7, 7)}, tmp_path / "other.safetensors")
    weights = f"model.pretrained={tmp_path / 'other.safetensors'}"
    code, found = doctor(str(tmp_path / "store"), "--set", "model.name=mlp", "--set", weights)
    assert (code, found["model"]["state"]) == (1, "failed")
    assert "1.weight is missing in the file" in found["model"]["found"]


def test_factory_missing_on_this_machine_is_a_warning(doctor: Doctor, tmp_path: Path) -> None:
    with serving() as kfp:
        code, found = doctor(str(tmp_path / "store"), "--host", kfp.url, "--set", "model.name=nomod:fn")
    assert (code, found["model"]["state"]) == (0, "warning")


def test_kubeflow_check_fails_if_the_server_is_down(doctor: Doctor, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    with serving() as kfp:
        code, found = doctor(store, "--host", kfp.url)
        assert (code, found["kubeflow"]["state"]) == (0, "ok")
        kfp.down = True
        code, found = doctor(store, "--host", kfp.url)
    assert (code, found["kubeflow"]["state"]) == (1, "failed")
    assert kfp.url in found["kubeflow"]["found"]
    assert "kubeflow.host" in found["kubeflow"]["mend"]


AWAY = "http://127.0.0.1:9"
TRACKERS = ("--set", "tracking.mlflow=true", "--set", "tracking.model_registry=true")


def test_unreachable_trackers_are_warnings(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:secret@127.0.0.1:9")
    monkeypatch.setenv("MODEL_REGISTRY_URL", AWAY)
    code, found = doctor(str(tmp_path / "store"), *TRACKERS)
    assert (code, found["MLflow"]["state"], found["Model Registry"]["state"]) == (0, "warning", "warning")
    assert "MLflow at http://***@127.0.0.1:9: cannot be reached: Connection refused." in found["MLflow"]["found"]
    assert f"Model Registry at {AWAY}: cannot be reached: Connection refused." in found["Model Registry"]["found"]
    assert "$MODEL_REGISTRY_URL" in found["Model Registry"]["found"]
    assert "`retrain track`" in found["MLflow"]["mend"]


def test_tracker_without_address_is_a_warning(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODEL_REGISTRY_URL", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "localhost:5000")
    code, found = doctor(str(tmp_path / "store"), *TRACKERS)
    assert (code, found["MLflow"]["state"], found["Model Registry"]["state"]) == (0, "warning", "warning")
    assert "set $MODEL_REGISTRY_URL" in found["Model Registry"]["found"]
    assert "does not begin with http:// or https://" in found["MLflow"]["found"]


def test_reachable_registry_passes_its_check(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_registry() as (address, registry):
        monkeypatch.setenv("MODEL_REGISTRY_URL", address)
        _, found = doctor(str(tmp_path / "store"), "--set", "tracking.model_registry=true")
    assert found["Model Registry"]["state"] == "ok"
    assert found["Model Registry"]["found"] == f"{address} answers; the first export registers the model pets"
    assert "MLflow" not in found
    assert registry.items == []


def test_dry_run_warns_of_an_unreachable_tracker(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MODEL_REGISTRY_URL", AWAY)
    pack(two_classes(tmp_path / "pets"), TASK, TaskStore(LocalStore(tmp_path / "store"), TASK.name))
    task = Task(name=TASK.name, store=str(tmp_path / "store"), data=TASK.data, tracking={"model_registry": True})
    (tmp_path / "pets.yaml").write_text(task.model_dump_json())
    ran = retrain(["run", "-t", str(tmp_path / "pets.yaml"), "--dry-run", "--json"], capfd)
    assert (ran.code, json.loads(ran.out)["method"]) == (0, "scratch")
    assert f"Model Registry at {AWAY}: cannot be reached: Connection refused" in caplog.text


def test_doctor_prints_a_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pets.yaml").write_text(json.dumps({"name": "pets", "store": str(tmp_path)}))
    ran = retrain(["doctor", "-t", str(tmp_path / "pets.yaml")], capfd)
    assert [line.split()[0] for line in ran.out.splitlines() if not line.startswith(" ")] == [
        "credentials", "store", "conditional", "clock", "files", "disk", "device", "model", "champion", "plan",
        "kubeflow",
    ]  # fmt: skip
