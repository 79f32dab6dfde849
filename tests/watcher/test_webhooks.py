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
from urllib.parse import urlsplit

import pytest
from support import known_ledger
from support.terminal import Ran, retrain
from urllib3 import ProxyManager

from retrain.config.task import Task
from retrain.errors import TaskError
from retrain.pipeline.executor import InProcessExecutor
from retrain.records import Approval, Verdict
from retrain.store import LocalStore
from retrain.store.base import Entry
from retrain.store.champions import Author
from retrain.store.task_store import TaskStore
from retrain.utils.clock import utc_now
from retrain.watcher.health import Health
from retrain.watcher.task_watch import TaskWatch
from retrain.watcher.webhooks import FIRST_PAUSE, HOSTS, LONGEST_PAUSE, Notifier, open_pool

POLICIES = Path(__file__).parents[2] / "docs" / "policies.md"
SECRET = "a shared secret"
START = known_ledger.START


class Receiver:
    """An endpoint on loopback. `received` has its requests, and `status` is its reply."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.status = 204
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
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
        return [json.loads(body)["id"] for _, body in self.received]


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
    """An SMTP server on loopback that stores the messages in `received`."""

    received: ClassVar[list[str]] = []

    def handle(self) -> None:
        """Accept every command, and store the text that follows DATA."""
        self.wfile.write(b"220 ready\r\n")
        for line in self.rfile:
            if line.upper().startswith(b"DATA"):
                self.wfile.write(b"354 send\r\n")
                self.received.append(b"".join(iter(self.rfile.readline, b".\r\n")).decode())
            self.wfile.write(b"221 bye\r\n" if line.upper().startswith(b"QUIT") else b"250 ok\r\n")


@pytest.fixture
def mails(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    MailServer.received.clear()
    with ThreadingTCPServer(("127.0.0.1", 0), MailServer) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        monkeypatch.setenv("SMTP_HOST", f"127.0.0.1:{server.server_address[1]}")
        yield MailServer.received
        server.shutdown()


class NotifiedTask:
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
def notified(tmp_path: Path, receiver: Receiver) -> NotifiedTask:
    notified = NotifiedTask(tmp_path, receiver.url)
    assert notified.notifier().notify()[0].confirmed == 0
    return notified


def test_event_is_a_signed_cloud_event(notified: NotifiedTask, receiver: Receiver) -> None:
    notified.store.ledger.write(known_ledger.pets()[0])
    notified.now += timedelta(days=9)
    assert notified.notifier().notify()[0].confirmed == 1
    [(headers, body)] = receiver.received
    event = json.loads(body)
    assert headers["content-type"].startswith("application/cloudevents+json")
    assert (event["specversion"], event["type"], event["id"]) == ("1.0", "io.retrain.run.ended", "run-scratch-1")
    assert (event["data"]["ending"], event["time"]) == ("promoted", "2026-01-06T00:00:00+00:00")
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    assert headers["webhook-timestamp"] == str(int(notified.now.timestamp()))


def test_documented_receiver_forwards_to_slack_and_mail(
    notified: NotifiedTask, receiver: Receiver, mails: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notified.store.ledger.write(known_ledger.pets()[0])
    notified.notifier().notify()
    [(headers, body)] = receiver.received
    (recipe,) = re.findall(r"```python\n(.*?)```", POLICIES.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(recipe, names)
    monkeypatch.setenv("SLACK_URL", receiver.url)
    assert names["receive"](headers, body + b" ") == 401
    assert (len(receiver.received), mails) == (1, [])
    assert names["receive"](headers, body) == 204
    assert json.loads(receiver.received[1][1]) == {"text": "pets: run.ended scratch-1"}
    [mail] = mails
    assert "Subject: pets: run.ended scratch-1" in mail
    assert "io.retrain.run.ended" in mail


def test_new_notifier_does_not_repeat_sent_events(notified: NotifiedTask, receiver: Receiver) -> None:
    first, *rest = known_ledger.pets()
    notified.store.ledger.write(first)
    notified.notifier().notify()
    known_ledger.write(notified.store.objects, rest)
    notified.store.champion.swap(notified.store.champion.read(), "scratch-1", "promoted")
    notified.store.champion.swap(notified.store.champion.read(), "continuous-4", "approved", Author("ann", "fine"))
    notified.store.champion.swap(notified.store.champion.read(), "scratch-1", "rolled back")
    notified.store.drops.quarantine("d-9", "torn")
    notified.store.approvals.request(Approval.requested("continuous-9", START, timedelta(days=1)))
    for _ in range(3):
        notified.notifier().notify()
    expected = [f"run-{record.run_id}" for record in (first, *rest)]
    expected += ["champion-1", "champion-2", "champion-3", "quarantine-d-9", "approval-continuous-9"]
    assert sorted(re.sub(r"-\d{8}T\d+", "", sent) for sent in receiver.ids) == sorted(expected)


def test_second_quarantine_of_a_drop_is_sent(notified: NotifiedTask, receiver: Receiver) -> None:
    """A drop is validated again after a person has deleted its report."""
    for cause in ("torn", "no label"):
        notified.store.drops.quarantine("d-9", cause)
        for _ in range(2):
            notified.notifier().notify()
        notified.store.objects.delete(notified.store.keys.quarantine("d-9"))
    assert [json.loads(body)["data"]["cause"] for _, body in receiver.received] == ["torn", "no label"]


def test_turn_without_news_lists_neither_drops_nor_deliveries(notified: NotifiedTask, receiver: Receiver) -> None:
    """These listings grow with the age of the task, and the watcher takes a turn every 20 seconds."""
    listed: list[str] = []

    class RecordingStore(LocalStore):
        def list(self, prefix: str = "") -> Iterator[Entry]:
            listed.append(prefix)
            return super().list(prefix)

    notified.store.ledger.write(known_ledger.pets()[0])
    notified.store = TaskStore(RecordingStore(notified.store.objects.root), "pets")
    notifier = notified.notifier()
    assert notifier.notify()[0].confirmed == 1
    listed.clear()
    assert notifier.notify(find_quarantined=False)[0] == (0, None)
    assert listed == [notified.store.keys.ledger, notified.store.keys.approvals]


def test_watcher_looks_for_quarantine_after_checking_drops(notified: NotifiedTask, receiver: Receiver) -> None:
    watch = TaskWatch(notified.task, InProcessExecutor("cpu"), Health(["pets"]), clock=lambda: notified.now)
    watch.notify()
    notified.store.drops.quarantine("d-9", "torn")
    watch.notify()
    assert receiver.received == []
    watch.check_drops()
    watch.notify()
    assert [event.rpartition("-")[0] for event in receiver.ids] == ["quarantine-d-9"]


def test_events_before_the_first_delivery_are_not_sent(tmp_path: Path, receiver: Receiver) -> None:
    notified = NotifiedTask(tmp_path, receiver.url)
    notified.store.ledger.write(known_ledger.pets()[0])
    notified.now = START + timedelta(days=2)
    notified.notifier().notify()
    assert receiver.received == []


def test_refused_event_is_sent_again_after_growing_pauses(notified: NotifiedTask, receiver: Receiver) -> None:
    notified.store.ledger.write(known_ledger.pets()[0])
    receiver.status = 500
    notifier, pause = notified.notifier(), FIRST_PAUSE
    assert notifier.notify()[0].problem == "answered 500"
    for tries in range(2, 11):
        notified.now += pause - timedelta(seconds=1)
        assert "will be tried again" in (notifier.notify()[0].problem or "")
        notified.now += timedelta(seconds=1)
        notifier.notify()
        assert len(receiver.received) == tries
        pause = min(2 * pause, LONGEST_PAUSE)
    receiver.status = 200
    notified.now += LONGEST_PAUSE
    assert notifier.notify()[0].confirmed == 1
    assert set(receiver.ids) == {"run-scratch-1"}


def test_watcher_counts_webhooks_that_fail(notified: NotifiedTask, receiver: Receiver) -> None:
    def failing() -> float:
        metrics = (sample for family in health.collect() for sample in family.samples)
        return next(one.value for one in metrics if one.name == "retrain_watcher_webhooks_failing")

    health = Health(["pets"])
    watch = TaskWatch(notified.task, InProcessExecutor("cpu"), health, clock=lambda: notified.now)
    assert failing() == 0
    notified.store.ledger.write(known_ledger.pets()[0])
    receiver.status = 500
    for _ in range(2):  # the second call falls into the pause before a retry, and sends nothing
        watch.notify()
        assert failing() == 1
    receiver.status = 200
    notified.now += LONGEST_PAUSE
    watch.notify()
    assert failing() == 0


def test_redirects_are_not_followed(notified: NotifiedTask, receiver: Receiver) -> None:
    notified.store.ledger.write(known_ledger.pets()[0])
    receiver.status = 307
    assert notified.notifier().notify()[0].problem == "answered 307"
    assert len(receiver.received) == 1


def test_webhook_gets_only_the_kinds_of_events_that_it_lists(tmp_path: Path, receiver: Receiver) -> None:
    notified = NotifiedTask(tmp_path, receiver.url, events=["champion.promoted"])
    notified.notifier().notify()
    notified.store.ledger.write(known_ledger.pets()[0])
    notified.store.champion.swap(notified.store.champion.read(), "scratch-1", "promoted")
    notified.notifier().notify()
    assert receiver.ids == ["champion-1"]


def spend_budget(tmp_path: Path, receiver: Receiver) -> NotifiedTask:
    """Return a task whose first run has spent this month's budget. Its webhook has not been notified yet."""
    notified = NotifiedTask(tmp_path, receiver.url, events=["budget.spent"])
    settings = notified.task.model_dump() | {"trigger": {"budget": {"device_hours": 0.1, "per": "month"}}}
    notified.task = Task.model_validate(settings)
    notified.notifier().notify()
    notified.store.ledger.write(known_ledger.pets()[0])
    return notified


def test_budget_event_is_sent_once_per_period(tmp_path: Path, receiver: Receiver) -> None:
    notified = spend_budget(tmp_path, receiver)
    for days in (2, 5):
        notified.now = START + timedelta(days=days)
        notified.notifier().notify()
    assert receiver.ids == ["budget-device-hours-2026-01-01"]


def test_budget_event_of_last_period_is_still_sent(tmp_path: Path, receiver: Receiver) -> None:
    notified = spend_budget(tmp_path, receiver)
    for month in (2, 2, 3):
        notified.now = START.replace(month=month)
        notified.notifier().notify()
    [(_, body)] = receiver.received
    event = json.loads(body)
    assert (event["id"], event["time"]) == ("budget-device-hours-2026-01-01", "2026-01-06T00:00:00+00:00")
    assert event["data"]["why"].endswith("of budget.device_hours 0.1 are spent in the month that began on 2026-01-01")


def test_approval_decided_before_delivery_is_still_sent(notified: NotifiedTask, receiver: Receiver) -> None:
    first, second, *_ = known_ledger.pets()
    for record in (first, second):
        notified.store.approvals.request(Approval.requested(record.run_id, START, timedelta(days=1)))
    verdict = Verdict(kind="approved", author="ann", reason="fine", at=START + timedelta(hours=1))
    notified.store.approvals.decide(first.run_id, verdict)
    notified.store.ledger.write(first)
    notifier = notified.notifier()
    notifier.notify()
    events = {event["id"]: event["data"] for event in (json.loads(body) for _, body in receiver.received)}
    decided, waiting = events[f"approval-{first.run_id}"], events[f"approval-{second.run_id}"]
    assert (decided["verdict"], waiting["verdict"]) == ("approved", None)
    assert decided["what"] == "scratch-1 passed the gate; approved by ann: fine"
    assert "awaits approval until" in waiting["what"]
    notified.store.approvals.decide(second.run_id, verdict)
    for again in (notifier, notified.notifier()):
        again.notify()
    assert len(receiver.received) == 3


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest", "https://localhost/x", "http://127.0.0.1.evil.example/"]
)
def test_host_that_is_not_allowed_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(
        TaskError, match=r"is not allowed: add it to \$RETRAIN_WEBHOOK_HOSTS \(now: 127.0.0.1, hooks.example\)"
    ):
        NotifiedTask(tmp_path, url).notifier()


def test_webhook_without_its_secret_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETRAIN_WEBHOOK_SECRET")
    with pytest.raises(TaskError, match=r"set \$RETRAIN_WEBHOOK_SECRET"):
        NotifiedTask(tmp_path, "https://hooks.example/x").notifier()


@pytest.fixture
def command(notified: NotifiedTask, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    (tmp_path / "pets.json").write_text(notified.task.model_dump_json(exclude_defaults=True))
    return lambda *arguments: retrain(("notify", "-t", str(tmp_path / "pets.json"), *arguments), capfd)


def test_notify_command_sends_events_and_reports_failure(
    notified: NotifiedTask, receiver: Receiver, command: Callable[..., Ran]
) -> None:
    later = known_ledger.pets()[0].model_copy(update={"ended_at": utc_now()})
    notified.store.ledger.write(later)
    [line] = command("--dry-run").out.splitlines()
    assert json.loads(line)["id"] == "run-scratch-1"
    sent = command()
    assert (sent.code, sent.out) == (0, f"{receiver.url}: 1 event confirmed\n")
    receiver.status = 500
    notified.store.champion.swap(notified.store.champion.read(), "scratch-1", "promoted")
    refused = command()
    assert (refused.code, refused.out) == (1, f"{receiver.url}: 0 events confirmed; answered 500\n")


def proxied(folder: Path, monkeypatch: pytest.MonkeyPatch, proxy: str) -> NotifiedTask:
    """Return a task whose webhook has a host that only the proxy knows."""
    monkeypatch.setenv("HTTP_PROXY", proxy)
    notified = NotifiedTask(folder, "http://hooks.example/retrain")
    notified.notifier().notify()
    notified.store.ledger.write(known_ledger.pets()[0])
    return notified


def test_events_pass_through_the_environments_proxy(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = urlsplit(receiver.url)
    notified = proxied(tmp_path, monkeypatch, f"ann:pass%20word@{address.netloc}")
    assert notified.notifier().notify()[0].confirmed == 1
    [(headers, _)] = receiver.received
    assert headers["host"] == "hooks.example"
    assert headers["proxy-authorization"] == f"Basic {base64.b64encode(b'ann:pass word').decode()}"
    monkeypatch.setenv("NO_PROXY", "hooks.example")
    assert not isinstance(open_pool("http://hooks.example/retrain"), ProxyManager)


def test_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://ann:secret@127.0.0.1:1")
    with pytest.raises(TaskError, match=r"\$HTTPS_PROXY cannot be used: .*socks5") as raised:
        open_pool("https://hooks.example/retrain")
    assert "secret" not in str(raised.value)
