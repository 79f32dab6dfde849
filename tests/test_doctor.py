"""`retrain doctor`: what would keep a task from running is found, named, and comes with what to do."""

import json
from email.utils import formatdate
from pathlib import Path

import pytest
from faulty_s3 import Forward, Reply, Request, faulty, refusal
from kfp_server import serving
from terminal import retrain

STORE_CHECKS = ["credentials", "store", "conditional writes", "clock"]


class Doctor:
    """Calls the command on a task of some store."""

    def __init__(self, folder: Path, output: pytest.CaptureFixture[str]) -> None:
        self.file, self.output = folder / "pets.yaml", output

    def __call__(
        self, store: str, *arguments: str, endpoint: str | None = None
    ) -> tuple[int, dict[str, dict[str, str]]]:
        self.file.write_text(json.dumps({"name": "pets", "store": store, "endpoint_url": endpoint}))
        ran = retrain(["doctor", "-t", str(self.file), "--json", *arguments], self.output)
        return ran.code, {finding["check"]: finding for finding in json.loads(ran.out)}


@pytest.fixture
def doctor(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Doctor:
    monkeypatch.setenv("RETRAIN_CACHE", str(tmp_path / "cache"))
    return Doctor(tmp_path, capfd)


def states(found: dict[str, dict[str, str]]) -> dict[str, str]:
    return {check: finding["state"] for check, finding in found.items()}


def test_a_sound_store_passes_every_check(doctor: Doctor, s3: str, bucket: str) -> None:
    code, found = doctor(f"s3://{bucket}/models", endpoint=s3)
    assert code == 0
    assert {states(found)[check] for check in [*STORE_CHECKS, "disk"]} == {"ok"}
    assert states(found)["kubeflow"] == "warning"
    assert found["credentials"]["found"] == "by env"


def test_a_folder_passes_too_and_keeps_no_trace_of_it(doctor: Doctor, tmp_path: Path) -> None:
    code, found = doctor(str(tmp_path / "store"))
    assert code == 0
    assert {states(found)[check] for check in STORE_CHECKS} == {"ok"}
    assert [path.name for path in (tmp_path / "store").iterdir() if not path.name.startswith(".")] == []


def test_without_credentials_it_says_where_to_set_them(
    doctor: Doctor, s3: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    code, found = doctor(f"s3://{bucket}", endpoint=s3)
    assert code == 1
    assert found["credentials"]["state"] == "failed"
    assert "AWS_ACCESS_KEY_ID" in found["credentials"]["mend"]
    assert "store" not in found  # it would be the same failure again


def test_a_missing_bucket_is_named(doctor: Doctor, s3: str) -> None:
    code, found = doctor("s3://nobody-made-this/x", endpoint=s3)
    assert code == 1
    assert found["store"]["state"] == "failed"
    assert "Create the bucket" in found["store"]["found"]


def test_a_server_that_ignores_conditions_fails(doctor: Doctor, s3: str, bucket: str) -> None:
    def forgetful(request: Request, forward: Forward) -> Reply:
        request.headers = {k: v for k, v in request.headers.items() if k.lower() not in ("if-none-match", "if-match")}
        return forward(request)

    with faulty(s3, forgetful) as endpoint:
        code, found = doctor(f"s3://{bucket}", endpoint=endpoint)
    assert code == 1
    assert found["conditional writes"]["state"] == "failed"
    assert "If-None-Match" in found["conditional writes"]["found"]


def test_a_clock_that_is_off_is_told_by_how_much(doctor: Doctor, s3: str, bucket: str) -> None:
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


def test_a_clock_that_the_server_refuses_is_no_riddle(doctor: Doctor, s3: str, bucket: str) -> None:
    with faulty(s3, lambda *_: refusal(403, "RequestTimeTooSkewed")) as endpoint:
        code, found = doctor(f"s3://{bucket}", endpoint=endpoint)
    assert code == 1
    assert "Set this machine's clock" in found["store"]["found"]


def test_a_cache_that_cannot_be_one_is_found(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAIN_CACHE", "/proc/retrain")  # where not even root can write
    code, found = doctor(str(tmp_path / "store"))
    assert code == 1
    assert "/proc/retrain cannot be written" in found["disk"]["found"]
    assert "$RETRAIN_CACHE" in found["disk"]["mend"]


def test_kubeflow_is_asked_and_what_it_refuses_is_told(doctor: Doctor, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    with serving() as kfp:
        code, found = doctor(store, "--host", kfp.url)
        assert (code, found["kubeflow"]["state"]) == (0, "ok")
        kfp.down = True
        code, found = doctor(store, "--host", kfp.url)
    assert (code, found["kubeflow"]["state"]) == (1, "failed")
    assert kfp.url in found["kubeflow"]["found"]
    assert "kubeflow.host" in found["kubeflow"]["mend"]


def test_people_get_a_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pets.yaml").write_text(json.dumps({"name": "pets", "store": str(tmp_path / "store")}))
    ran = retrain(["doctor", "-t", str(tmp_path / "pets.yaml")], capfd)
    assert [line.split()[0] for line in ran.out.splitlines() if not line.startswith(" ")] == [
        "credentials", "store", "conditional", "clock", "disk", "device", "kubeflow",
    ]  # fmt: skip
