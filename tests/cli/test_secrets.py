"""No output, log, file or object contains a secret.

The tests set secrets in the environment and in addresses, run commands, and search everything that these write.
"""

import base64
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from support import kfp_server, monitoring
from support.faulty_s3 import Forward, Reply, Request, faulty, refusal
from support.kfp_server import KfpServer
from support.pictures import two_classes
from support.programs import free_port
from support.terminal import retrain

from retrain.config.fields import CREDENTIALS_MESSAGE
from retrain.config.loading import load_task
from retrain.errors import TaskError, UserError
from retrain.store import open_store
from retrain.store.s3.sqs import SqsQueue
from retrain.utils.text import mask_credentials

PLANTED = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDKEY000001",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+access+key/000000000002",
    "AWS_SESSION_TOKEN": "planted-session-token-000000000000003",
    "RETRAIN_KUBEFLOW_TOKEN": "planted-kubeflow-token-0000000000004",
}
PASSWORD = "planted-password-5"
TASK = """
name: pets
store: s3://{bucket}/models
data: {{image_size: 8, val_share: 0.2, test_share: 0.2, crop_padding: 0, flip: false}}
model: {{name: logistic}}
training: {{epochs: 1, evaluate_every: 1}}
kubeflow: {{host: {kubeflow}}}
resources: {{image: retrain, credentials: aws-keys}}
"""
ADDRESSES = (
    f"https://user:{PASSWORD}@s3.example",
    f"https://{PASSWORD}@s3.example/path",
    f"https://s3.example/?X-Amz-Signature={PASSWORD}",
    f"https://s3.example/#{PASSWORD}",
)


def forms(secret: str) -> set[bytes]:
    """Return a secret as plain text, and as encoded in URLs, JSON texts and headers."""
    written = {secret, quote(secret, safe=""), json.dumps(secret)[1:-1], base64.b64encode(secret.encode()).decode()}
    return {text.encode() for text in written}


class RecordedCommands:
    """Commands on a task, with their output and all files and objects that they wrote."""

    def __init__(self, folder: Path, endpoint: str, bucket: str, kubeflow: str, output: pytest.CaptureFixture[str]):
        self.folder, self.output, self.recorded = folder, output, dict[str, bytes]()
        self.file = folder / "pets.yaml"
        self.file.write_text(TASK.format(bucket=bucket, kubeflow=kubeflow))
        self.store = open_store(f"s3://{bucket}", endpoint)

    def __call__(self, *arguments: str) -> int:
        ran = retrain([*arguments, "--task", str(self.file)], self.output)
        self.recorded[f"{len(self.recorded)}: {' '.join(arguments)}"] = f"{ran.out}{ran.err}".encode()
        return ran.code

    def land(self, drop: str, each: int) -> None:
        assert self("drop", "pack", str(two_classes(self.folder / drop, each, first=1000 * each)), "--id", drop) == 0

    def outputs(self, *more: tuple[str, bytes]) -> Iterator[tuple[str, bytes]]:
        """Yield the output of each command, each file and each object, with its name."""
        yield from self.recorded.items()
        yield from more
        for path in self.folder.rglob("*"):
            if path.is_file():
                yield str(path), path.read_bytes()
        for entry in self.store.list():
            yield entry.key, self.store.read(entry.key)[0]


@pytest.fixture
def kubeflow() -> Iterator[KfpServer]:
    with kfp_server.serving() as server:
        yield server


def test_no_output_file_or_object_contains_a_secret(
    s3: str,
    bucket: str,
    kubeflow: KfpServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    headers: list[str] = []
    failing: list[str] = []

    def listen(request: Request, forward: Forward) -> Reply:
        headers.append(str(request.headers))
        return refusal(403, failing[0]) if failing else forward(request)

    caplog.set_level(logging.DEBUG, logger="retrain")
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RETRAIN_CACHE", str(tmp_path / "cache"))
    commands = RecordedCommands(tmp_path, s3, bucket, kubeflow.url, capfd)
    with faulty(s3, listen) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint.replace("//", f"//user:{PASSWORD}@"))
        run_commands(commands, kubeflow)
        pages = run_failing_commands(commands, kubeflow, failing)
    assert any(PLANTED["AWS_SESSION_TOKEN"] in header for header in headers)
    assert f"Bearer {PLANTED['RETRAIN_KUBEFLOW_TOKEN']}" in kubeflow.tokens
    submitted = json.dumps([kubeflow.experiments, kubeflow.runs, kubeflow.recurringruns]).encode()
    outputs = dict(commands.outputs(("kubeflow", submitted), ("pages", pages), ("log", caplog.text.encode())))
    assert len(outputs) > 60
    for secret in (*PLANTED.values(), PASSWORD):
        assert [place for place, data in outputs.items() if any(form in data for form in forms(secret))] == []


def run_commands(commands: RecordedCommands, kubeflow: KfpServer) -> None:
    commands.land("a", 40)
    assert commands("doctor") == 0
    assert commands("run") == 0
    commands.land("b", 50)
    assert commands("watch", "--once") == 0
    commands.land("c", 60)
    assert commands("run", "--on", "kubeflow") == 0, commands.recorded
    assert commands("pipeline", "schedule", "--cron", "0 2 * * *") == 0
    assert commands("pipeline", "compile", "--output", str(commands.folder / "pipeline.yaml")) == 0
    assert commands("pipeline", "trainjob") == 0
    assert commands("report", "--output", str(commands.folder / "report.html")) == 0
    for command in ("status", "history", "metrics"):
        assert commands(command) == 0
    assert len(kubeflow.runs) == 1


def run_failing_commands(commands: RecordedCommands, kubeflow: KfpServer, failing: list[str]) -> bytes:
    """Run commands without Kubeflow and with refused credentials. Return the exporter's pages."""
    kubeflow.down = True
    assert commands("run", "--on", "kubeflow") == 2
    with monitoring.exporter([load_task(str(commands.file))], every=0.1) as address:
        pages = [monitoring.get(f"http://{address}/{path}") for path in ("", "metrics")]
        for code in ("ExpiredToken", "AccessDenied"):
            failing[:] = [code]
            for command in (("doctor",), ("run",), ("watch", "--once"), ("status",)):
                assert commands(*command) != 0
        pages.append(monitoring.get(f"http://{address}/metrics"))
    return "".join(pages).encode()


@pytest.mark.parametrize("field", ["endpoint_url", "kubeflow.host", "store"])
@pytest.mark.parametrize("address", ADDRESSES)
def test_address_with_a_secret_is_refused_without_printing_it(tmp_path: Path, field: str, address: str) -> None:
    path = tmp_path / "pets.yaml"
    path.write_text("name: pets\n")
    with pytest.raises(TaskError) as refused:
        load_task(str(path), [f"{field}='{address}'"])
    assert str(refused.value) == f"--set: {field}: {CREDENTIALS_MESSAGE}"


def test_queue_url_with_a_secret_is_refused_without_printing_it() -> None:
    for address in ADDRESSES:
        with pytest.raises(UserError) as refused:
            SqsQueue(address)
        assert str(refused.value) == f"--queue-url {CREDENTIALS_MESSAGE}"


def test_paths_and_plain_addresses_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "pets.yaml"
    path.write_text("name: pets\nstore: /data/what?/user@host#1\nendpoint_url: https://s3.example:9000/path@v2\n")
    task = load_task(str(path))
    assert (task.store, task.endpoint_url) == ("/data/what?/user@host#1", "https://s3.example:9000/path@v2")


def test_messages_mask_users_and_queries_of_addresses() -> None:
    said = 'cannot connect: "http://a:b@host:1/x?sig=c&d=e" via proxy http://u@p:2, is it up? see https://h/#d'
    masks = 'cannot connect: "http://***@host:1/x?***" via proxy http://***@p:2, is it up? see https://h/?***'
    assert mask_credentials(said) == masks


def test_message_about_an_unreachable_server_has_no_password(
    monkeypatch: pytest.MonkeyPatch, s3: str, bucket: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://user:{PASSWORD}@127.0.0.1:{free_port()}")
    with pytest.raises(UserError, match=r"http://\*\*\*@127.0.0.1:\d+.* cannot be reached") as failed:
        open_store(f"s3://{bucket}").read("key")
    assert PASSWORD not in str(failed.value)
