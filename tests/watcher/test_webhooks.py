"""Webhooks over real HTTP: signatures, repeated delivery, and events that are not sent."""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any, ClassVar

import pytest
from support import known_ledger
from support.terminal import Ran, retrain

from retrain.config.task import Task
from retrain.errors import TaskError
from retrain.pipeline.executor import InProcessExecutor
from retrain.records import Approval, Verdict
from retrain.store import LocalStore
from retrain.store.champions import Author
from retrain.store.task_store import TaskStore
from retrain.utils.clock import utc_now
from retrain.watcher.health import Health
from retrain.watcher.task_watch import TaskWatch
from retrain.watcher.webhooks import FIRST_PAUSE, HOSTS, LONGEST_PAUSE, Notifier

POLICIES = Path(__file__).parents[2] / "docs" / "policies.md"
SECRET = "what only both know"
START = known_ledger.START


class Receiver:
    """An endpoint on loopback: the requests that it got, and its answers."""

    def __init__(self) -> None:
        self.came: list[tuple[dict[str, str], bytes]] = []
        self.status = 204
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.came.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(receiver.status)
                self.send_header("location", f"{receiver.url}/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Keep the test's output clean."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    @property
    def ids(self) -> list[str]:
        return [json.loads(body)["id"] for _, body in self.came]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield receiver
    receiver.server.shutdown()
    thread.join()
    receiver.server.server_close()


class MailServer(StreamRequestHandler):
    """An SMTP server on loopback that keeps the messages."""

    came: ClassVar[list[str]] = []

    def handle(self) -> None:
        """Answer every command with success, and keep what follows DATA."""
        self.wfile.write(b"220 ready\r\n")
        for line in self.rfile:
            if line.upper().startswith(b"DATA"):
                self.wfile.write(b"354 send\r\n")
                self.came.append(b"".join(iter(self.rfile.readline, b".\r\n")).decode())
            self.wfile.write(b"221 bye\r\n" if line.upper().startswith(b"QUIT") else b"250 ok\r\n")


@pytest.fixture
def mails(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    MailServer.came.clear()
    with ThreadingTCPServer(("127.0.0.1", 0), MailServer) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        monkeypatch.setenv("SMTP_HOST", f"127.0.0.1:{server.server_address[1]}")
        yield MailServer.came
        server.shutdown()


class Place:
    """A task with one webhook, and a clock."""

    def __init__(self, folder: Path, url: str, **webhook: object) -> None:
        settings = {"name": "pets", "store": str(folder / "store"), "webhooks": [{"url": url, **webhook}]}
        self.task, self.now = Task.model_validate(settings), START
        self.store = TaskStore(LocalStore(folder / "store"), "pets")

    def notifier(self) -> Notifier:
        return Notifier(self.task, self.store, lambda: self.now)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOSTS, "hooks.example, 127.0.0.1")
    monkeypatch.setenv("RETRAIN_WEBHOOK_SECRET", SECRET)


@pytest.fixture
def place(tmp_path: Path, receiver: Receiver) -> Place:
    place = Place(tmp_path, receiver.url)
    assert place.notifier().notify()[0].confirmed == 0
    return place


def test_event_is_a_signed_cloud_event(place: Place, receiver: Receiver) -> None:
    place.store.ledger.write(known_ledger.pets()[0])
    place.now += timedelta(days=9)
    assert place.notifier().notify()[0].confirmed == 1
    [(headers, body)] = receiver.came
    event = json.loads(body)
    assert headers["content-type"].startswith("application/cloudevents+json")
    assert (event["specversion"], event["type"], event["id"]) == ("1.0", "io.retrain.run.ended", "run-scratch-1")
    assert (event["data"]["ending"], event["time"]) == ("promoted", "2026-01-06T00:00:00+00:00")
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    assert headers["webhook-timestamp"] == str(int(place.now.timestamp()))


def test_documented_receiver_forwards_to_slack_and_mail(
    place: Place, receiver: Receiver, mails: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.store.ledger.write(known_ledger.pets()[0])
    place.notifier().notify()
    [(headers, body)] = receiver.came
    (recipe,) = re.findall(r"```python\n(.*?)```", POLICIES.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(recipe, names)
    monkeypatch.setenv("SLACK_URL", receiver.url)
    assert names["receive"](headers, body + b" ") == 401
    assert (len(receiver.came), mails) == (1, [])
    assert names["receive"](headers, body) == 204
    assert json.loads(receiver.came[1][1]) == {"text": "pets: run.ended scratch-1"}
    [mail] = mails
    assert "Subject: pets: run.ended scratch-1" in mail
    assert "io.retrain.run.ended" in mail


def test_new_notifier_does_not_repeat_sent_events(place: Place, receiver: Receiver) -> None:
    first, *rest = known_ledger.pets()
    place.store.ledger.write(first)
    place.notifier().notify()
    known_ledger.write(place.store.objects, rest)
    place.store.champion.swap(place.store.champion.read(), "scratch-1", "promoted")
    place.store.champion.swap(place.store.champion.read(), "continuous-4", "approved", Author("ann", "fine"))
    place.store.champion.swap(place.store.champion.read(), "scratch-1", "rolled back")
    place.store.drops.quarantine("d-9", "torn")
    place.store.approvals.request(Approval.requested("continuous-9", START, timedelta(days=1)))
    for _ in range(3):
        place.notifier().notify()
    expected = [f"run-{record.run_id}" for record in (first, *rest)]
    expected += ["champion-1", "champion-2", "champion-3", "quarantine-d-9", "approval-continuous-9"]
    assert sorted(receiver.ids) == sorted(expected)


def test_events_before_the_webhook_are_not_sent(tmp_path: Path, receiver: Receiver) -> None:
    place = Place(tmp_path, receiver.url)
    place.store.ledger.write(known_ledger.pets()[0])
    place.now = START + timedelta(days=2)
    place.notifier().notify()
    assert receiver.came == []


def test_refused_event_is_sent_again_after_growing_pauses(place: Place, receiver: Receiver) -> None:
    place.store.ledger.write(known_ledger.pets()[0])
    receiver.status = 500
    notifier, pause = place.notifier(), FIRST_PAUSE
    assert notifier.notify()[0].problem == "answered 500"
    for tries in range(2, 11):
        place.now += pause - timedelta(seconds=1)
        assert "will be tried again" in (notifier.notify()[0].problem or "")
        place.now += timedelta(seconds=1)
        notifier.notify()
        assert len(receiver.came) == tries
        pause = min(2 * pause, LONGEST_PAUSE)
    receiver.status = 200
    place.now += LONGEST_PAUSE
    assert notifier.notify()[0].confirmed == 1
    assert set(receiver.ids) == {"run-scratch-1"}


def test_watcher_counts_webhooks_that_fail(place: Place, receiver: Receiver) -> None:
    def failing() -> float:
        metrics = (sample for family in health.collect() for sample in family.samples)
        return next(one.value for one in metrics if one.name == "retrain_watcher_webhooks_failing")

    health = Health(["pets"])
    watch = TaskWatch(place.task, InProcessExecutor("cpu"), health, clock=lambda: place.now)
    assert failing() == 0
    place.store.ledger.write(known_ledger.pets()[0])
    receiver.status = 500
    for _ in range(2):  # the second call falls into the pause before a retry, and sends nothing
        watch.notify()
        assert failing() == 1
    receiver.status = 200
    place.now += LONGEST_PAUSE
    watch.notify()
    assert failing() == 0


def test_redirects_are_not_followed(place: Place, receiver: Receiver) -> None:
    place.store.ledger.write(known_ledger.pets()[0])
    receiver.status = 307
    assert place.notifier().notify()[0].problem == "answered 307"
    assert len(receiver.came) == 1


def test_only_events_that_were_asked_for_are_sent(tmp_path: Path, receiver: Receiver) -> None:
    place = Place(tmp_path, receiver.url, events=["champion.promoted"])
    place.notifier().notify()
    place.store.ledger.write(known_ledger.pets()[0])
    place.store.champion.swap(place.store.champion.read(), "scratch-1", "promoted")
    place.notifier().notify()
    assert receiver.ids == ["champion-1"]


def spend_budget(tmp_path: Path, receiver: Receiver) -> Place:
    """Return a task whose first run has spent this month's budget after the last notification."""
    place = Place(tmp_path, receiver.url, events=["budget.spent"])
    settings = place.task.model_dump() | {"trigger": {"budget": {"device_hours": 0.1, "per": "month"}}}
    place.task = Task.model_validate(settings)
    place.notifier().notify()
    place.store.ledger.write(known_ledger.pets()[0])
    return place


def test_budget_event_is_sent_once_per_period(tmp_path: Path, receiver: Receiver) -> None:
    place = spend_budget(tmp_path, receiver)
    for days in (2, 5):
        place.now = START + timedelta(days=days)
        place.notifier().notify()
    assert receiver.ids == ["budget-device-hours-2026-01-01"]


def test_budget_event_of_last_period_is_still_sent(tmp_path: Path, receiver: Receiver) -> None:
    place = spend_budget(tmp_path, receiver)
    for month in (2, 2, 3):
        place.now = START.replace(month=month)
        place.notifier().notify()
    [(_, body)] = receiver.came
    event = json.loads(body)
    assert (event["id"], event["time"]) == ("budget-device-hours-2026-01-01", "2026-01-06T00:00:00+00:00")
    assert event["data"]["why"].endswith("device hours of 0.1 are spent in the month that began on 2026-01-01")


def test_approval_decided_before_delivery_is_still_sent(place: Place, receiver: Receiver) -> None:
    first, second, *_ = known_ledger.pets()
    for record in (first, second):
        place.store.approvals.request(Approval.requested(record.run_id, START, timedelta(days=1)))
    verdict = Verdict(kind="approved", author="ann", reason="fine", at=START + timedelta(hours=1))
    place.store.approvals.decide(first.run_id, verdict)
    place.store.ledger.write(first)
    notifier = place.notifier()
    notifier.notify()
    events = {event["id"]: event["data"] for event in (json.loads(body) for _, body in receiver.came)}
    decided, waiting = events[f"approval-{first.run_id}"], events[f"approval-{second.run_id}"]
    assert (decided["verdict"], waiting["verdict"]) == ("approved", None)
    assert decided["what"] == "scratch-1 passed the gate; approved by ann: fine"
    assert "awaits approval until" in waiting["what"]
    place.store.approvals.decide(second.run_id, verdict)
    for again in (notifier, place.notifier()):
        again.notify()
    assert len(receiver.came) == 3


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest", "https://localhost/x", "http://127.0.0.1.evil.example/"]
)
def test_host_that_is_not_allowed_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(
        TaskError, match=r"is not allowed: add it to \$RETRAIN_WEBHOOK_HOSTS \(now: 127.0.0.1, hooks.example\)"
    ):
        Place(tmp_path, url).notifier()


def test_webhook_without_its_secret_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETRAIN_WEBHOOK_SECRET")
    with pytest.raises(TaskError, match=r"set \$RETRAIN_WEBHOOK_SECRET"):
        Place(tmp_path, "https://hooks.example/x").notifier()


@pytest.fixture
def command(place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    (tmp_path / "pets.json").write_text(place.task.model_dump_json(exclude_defaults=True))
    return lambda *arguments: retrain(("notify", "-t", str(tmp_path / "pets.json"), *arguments), capfd)


def test_notify_command_sends_events_and_reports_failure(
    place: Place, receiver: Receiver, command: Callable[..., Ran]
) -> None:
    later = known_ledger.pets()[0].model_copy(update={"ended_at": utc_now()})
    place.store.ledger.write(later)
    [line] = command("--dry-run").out.splitlines()
    assert json.loads(line)["id"] == "run-scratch-1"
    sent = command()
    assert (sent.code, sent.out) == (0, f"{receiver.url}: 1 event confirmed\n")
    receiver.status = 500
    place.store.champion.swap(place.store.champion.read(), "scratch-1", "promoted")
    refused = command()
    assert (refused.code, refused.out) == (1, f"{receiver.url}: 0 events confirmed; answered 500\n")
