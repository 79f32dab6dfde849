"""Tests of the pod that `helm test` starts, by running its programs."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.rendered import documents, feature, one, values_of


def test_helm_test_requests_the_exporter() -> None:
    pod = one(feature("tasks"), "Pod", "retrain-test")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert "http://retrain-exporter:9109/healthz" in pod["spec"]["containers"][-1]["command"][-1]


def test_helm_test_reads_all_tasks_in_one_small_container() -> None:
    for name in ("tasks", "here"):
        stores, exporter = one(feature(name), "Pod", "retrain-test")["spec"]["containers"]
        assert stores["command"][3:] == (["007", "flowers", "on"] if name == "tasks" else ["flowers"])
        assert stores["resources"] == exporter["resources"], "the watcher's GPU is not requested"


def test_helm_test_pod_is_admitted_with_added_volumes_and_labels() -> None:
    identity = {"azure.workload.identity/use": "true"}
    volumes = {"extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}]}
    mounts = {"extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}]}
    values = values_of("azure")
    values["watcher"] |= {"podAnnotations": {"sidecar.istio.io/inject": "false"}}
    values["exporter"] |= volumes | mounts
    pod = one(documents(values), "Pod", "retrain-test")
    assert identity.items() <= pod["metadata"]["labels"].items(), "the webhook of Azure projects the identity's token"
    assert pod["metadata"]["labels"]["app.kubernetes.io/component"] == "test"
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
    declared = {volume["name"] for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for container in pod["spec"]["containers"] for mount in container["volumeMounts"]} == declared


def test_helm_test_names_each_task_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAIN_TASKS", str(tmp_path))
    monkeypatch.setenv("RETRAIN_LOG_FORMAT", "json")
    program = one(feature("tasks"), "Pod", "retrain-test")["spec"]["containers"][0]["command"][:3]
    for name, store in (("birds", "store"), ("boats", "file"), ("cars", "store"), ("pets", "file")):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\nstore: {store}\n")
    (tmp_path / "file").write_text("no folder")
    command = [sys.executable, *program[1:]]
    ran = subprocess.run([*command, "birds", "boats", "cars", "pets"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 1
    assert [line[:5] for line in ran.stderr.splitlines()] == ["boats", "pets:"]
    assert "cars" in ran.stdout
    read = subprocess.run([*command, "birds", "cars"], cwd=tmp_path, capture_output=True, text=True)
    assert read.returncode == 0, read.stderr


def test_helm_test_repeats_a_failed_request() -> None:
    pod = one(feature("tasks"), "Pod", "retrain-test")
    program = pod["spec"]["containers"][-1]["command"][-1]
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        own = program.replace("retrain-exporter:9109", f"127.0.0.1:{server.getsockname()[1]}")
        with subprocess.Popen([sys.executable, "-c", own]) as process:
            server.accept()[0].close()  # as if a network policy did not know the new pod yet
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            assert process.wait(timeout=60) == 0
