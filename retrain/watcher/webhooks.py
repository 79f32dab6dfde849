"""Deliver a task's events to its webhooks as signed CloudEvents, at least once, with exponential backoff.

The signature follows https://www.standardwebhooks.com: an HMAC-SHA256 over id, time and body. The store
contains a record of each delivery, so any process can continue where another stopped. If this record cannot be written,
the event is sent again under the same id.
"""

import base64
import hashlib
import hmac
import json
import logging
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.util import make_headers, parse_url

from retrain import __version__
from retrain.config.automation import Webhook
from retrain.config.task import Task
from retrain.errors import TaskError
from retrain.records import Approval, Record, RunRecord
from retrain.store.base import Conflict, read_record
from retrain.store.drops import Quarantine
from retrain.store.task_store import TaskStore
from retrain.utils.clock import Clock, format_moment, utc_now
from retrain.utils.parallel import map_ahead
from retrain.utils.text import mask_credentials
from retrain.watcher.notifications import Notification, collect_notifications

HOSTS = "RETRAIN_WEBHOOK_HOSTS"
"""Environment variable with the allowed hosts, separated by commas. A task file cannot add hosts."""
TIMEOUT = urllib3.Timeout(connect=5, read=10)
"""Longest time to connect to an endpoint, and longest wait for its reply, in seconds."""
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=30), timedelta(hours=1)
"""Pauses after failures of an endpoint: the first pause, and the longest. Each further failure doubles the pause."""

log = logging.getLogger("retrain")


class Delivered(Record):
    """`notifications/<endpoint>/<event>.json`: an event that the endpoint has confirmed."""

    id: str
    at: datetime


class Delivery(NamedTuple):
    """The number of events that an endpoint has confirmed, and the problem that stopped the delivery, if any."""

    confirmed: int
    problem: str | None = None


class Endpoint:
    """One webhook of one task. It signs and sends events, and records which events the receiver has confirmed.

    After each failure, it pauses for longer. It asks the store only about events that it has not found confirmed yet.
    """

    def __init__(self, webhook: Webhook, store: TaskStore) -> None:
        self.webhook, self._store = webhook, store
        self._secret = _secret_of(webhook)
        _check_host(webhook)
        self._pool = open_pool(webhook.url)
        self._pause = FIRST_PAUSE
        self._not_before: datetime | None = None
        self._since: datetime | None = None
        self._confirmed: set[str] = set()
        self._prefix = store.keys.notifications(hashlib.sha256(webhook.url.encode()).hexdigest()[:16])

    def deliver(self, events: Sequence[Notification], now: datetime) -> Delivery:
        """Send the unconfirmed events, oldest first, until a delivery fails."""
        if self._not_before and now < self._not_before:
            return Delivery(0, f"will be tried again at {format_moment(self._not_before)}")
        self._since = self._since or self._first_seen(now)
        wanted = [event for event in events if event.kind in self.webhook.events and event.at >= self._since]
        sent = 0
        for event in self._unconfirmed(wanted):
            if (problem := self._send(event, now)) is not None:
                self._back_off(problem, now)
                return Delivery(sent, problem)
            self._record_delivery(event.id, now)
            self._confirmed.add(event.id)
            self._pause, sent = FIRST_PAUSE, sent + 1
        return Delivery(sent)

    def _unconfirmed(self, events: Sequence[Notification]) -> list[Notification]:
        """Return the events that neither this process nor another one has recorded as confirmed."""
        if any(event.id not in self._confirmed for event in events):
            entries = self._store.objects.list(self._prefix)
            self._confirmed |= {entry.key.removeprefix(self._prefix).removesuffix(".json") for entry in entries}
        return [event for event in events if event.id not in self._confirmed]

    def _first_seen(self, now: datetime) -> datetime:
        """Return the time of the first delivery to this endpoint. Earlier events are not sent."""
        key = f"{self._prefix}since.json"
        try:
            self._store.objects.create(key, Delivered(id="since", at=now).to_bytes())
        except Conflict:
            return read_record(self._store.objects, key, Delivered)[0].at
        return now

    def _record_delivery(self, event_id: str, now: datetime) -> None:
        self._store.objects.write(f"{self._prefix}{event_id}.json", Delivered(id=event_id, at=now).to_bytes())

    def _back_off(self, problem: str, now: datetime) -> None:
        log.warning("%s: webhook %s: %s", self._store.task, self.webhook.url, problem)
        self._not_before = now + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _send(self, event: Notification, now: datetime) -> str | None:
        """Send one event. Return the problem if it was not confirmed, or None. Redirects are not followed."""
        body = cloud_event(self._store, event)
        headers = {
            "content-type": "application/cloudevents+json; charset=utf-8",
            "user-agent": f"retrain/{__version__}",
            **sign(self._secret, event.id, now, body),
        }
        try:
            reply = self._pool.request(
                "POST", self.webhook.url, body=body, headers=headers, timeout=TIMEOUT, redirect=False
            )
        except urllib3.exceptions.HTTPError as error:
            return f"cannot be reached: {error}"
        return None if 200 <= reply.status < 300 else f"answered {reply.status}"


def _secret_of(webhook: Webhook) -> bytes:
    secret = os.environ.get(webhook.secret_variable, "")
    if not secret:
        raise TaskError(f"webhooks: set ${webhook.secret_variable} to the secret that signs messages to {webhook.url}")
    return secret.encode()


def _check_host(webhook: Webhook) -> None:
    """Raise `TaskError` unless the environment allows the webhook's host."""
    host = urlsplit(webhook.url).hostname or ""
    allowed = {name.strip().lower() for name in os.environ.get(HOSTS, "").split(",") if name.strip()}
    if host not in allowed:
        listed = ", ".join(sorted(allowed)) or "none"
        raise TaskError(f"webhooks: {webhook.url}: host {host} is not allowed: add it to ${HOSTS} (now: {listed})")


def open_pool(url: str) -> urllib3.PoolManager:
    """Return a pool of connections for an address: direct, or through the proxy of $HTTPS_PROXY or $HTTP_PROXY.

    $NO_PROXY lists hosts without a proxy. Raises `TaskError` if the proxy's address cannot be used.
    """
    address = urlsplit(url)
    proxy = getproxies().get(address.scheme)
    if not proxy or proxy_bypass(address.netloc):
        return urllib3.PoolManager(retries=False)
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    try:
        user = parse_url(proxy).auth
        headers = make_headers(proxy_basic_auth=unquote(user)) if user else None
        return urllib3.ProxyManager(proxy, proxy_headers=headers, retries=False)
    except urllib3.exceptions.HTTPError as error:
        variable = f"${address.scheme.upper()}_PROXY"
        raise TaskError(f"webhooks: {url}: {variable} cannot be used: {mask_credentials(str(error))}") from error


def cloud_event(store: TaskStore, event: Notification) -> bytes:
    """Return an event as a CloudEvent 1.0 in structured JSON."""
    document = {
        "specversion": "1.0",
        "id": event.id,
        "source": f"{store.url}/{store.task}",
        "type": f"io.retrain.{event.kind}",
        "subject": event.subject,
        "time": event.at.isoformat(),
        "datacontenttype": "application/json",
        "data": {"task": store.task, **event.data},
    }
    return json.dumps(document, sort_keys=True).encode()


def sign(secret: bytes, event_id: str, now: datetime, body: bytes) -> dict[str, str]:
    """Return the headers that authenticate sender, message and time (Standard Webhooks)."""
    moment = str(int(now.timestamp()))
    signed = hmac.new(secret, b".".join([event_id.encode(), moment.encode(), body]), hashlib.sha256).digest()
    return {
        "webhook-id": event_id,
        "webhook-timestamp": moment,
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }


class Notifier:
    """Delivers a task's events to its webhooks. Each record of the ledger, and each verdict, is read once."""

    def __init__(self, task: Task, store: TaskStore, clock: Clock = utc_now) -> None:
        """Raise `TaskError` if a webhook's host is not allowed or its secret is not set."""
        self._task, self._store, self._clock = task, store, clock
        self._endpoints = [Endpoint(webhook, store) for webhook in task.webhooks]
        self._records: dict[str, RunRecord] = {}
        self._approvals: dict[str, Approval] = {}
        self._quarantined: Mapping[str, Quarantine | None] = {}

    def notify(self, find_quarantined: bool = True) -> list[Delivery]:
        """Deliver the unconfirmed events to each endpoint. Raises `StoreError`.

        To find drops in quarantine, all objects of the drops are listed. Without `find_quarantined`, the drops of the
        last listing count.
        """
        if not self._endpoints:
            return []
        now = self._clock()
        for record in map_ahead(self._store.ledger.find, sorted(self._store.ledger.run_ids() - self._records.keys())):
            if record:
                self._records[record.run_id] = record
        records = sorted(self._records.values(), key=lambda record: record.ended_at)
        decided = {approval.run_id for approval in self._approvals.values() if approval.verdict}
        for approval in self._store.approvals.read(self._store.approvals.run_ids() - decided):
            self._approvals[approval.run_id] = approval
        if find_quarantined:
            self._quarantined = self._store.drops.quarantine_reports()
        approvals = list(self._approvals.values())
        events = collect_notifications(self._task, self._store, records, approvals, self._quarantined, now)
        return [endpoint.deliver(events, now) for endpoint in self._endpoints]
