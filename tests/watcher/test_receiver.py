"""Events pushed over HTTP: authentication, accepted events, and a real Ceph server as sender."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from urllib.parse import quote

import boto3
import pytest
from support.radosgw import KEY
from support.watching import notification

from retrain.config.task import Task
from retrain.errors import UserError
from retrain.monitoring.web import Posts, serving
from retrain.store import open_store
from retrain.watcher import receiver
from retrain.watcher.health import Health, health_app
from retrain.watcher.receiver import BODY_BYTES, PATH, EventReceiver

TOKEN = "a token of the tests"
TASK = Task(name="pets", store="s3://data/models")
DROP = "models/pets/drops/d-1/_SUCCESS"
S3_EVENT = json.loads(notification("data", DROP))
MINIO = json.dumps(
    {
        "EventName": "s3:ObjectCreated:CompleteMultipartUpload",
        "Key": f"data/{DROP}",
        "Records": [
            {
                "eventVersion": "2.0",
                "eventSource": "minio:s3",
                "awsRegion": "",
                "eventTime": "2026-11-30T08:00:58.040Z",
                "eventName": "s3:ObjectCreated:CompleteMultipartUpload",
                "s3": {
                    "s3SchemaVersion": "1.0",
                    "configurationId": "Config",
                    "bucket": {"name": "data", "ownerIdentity": {"principalId": "shop"}, "arn": "arn:aws:s3:::data"},
                    "object": {"key": quote(DROP, safe=""), "eTag": "59adb24ef3cdbe0297f05b395827453f-1"},
                },
                "source": {"host": "127.0.0.1", "port": "", "userAgent": "MinIO (linux; amd64) minio-go/v7.0.88"},
            }
        ],
    }
)
"""An event of a MinIO server (release of 2026-02-12), without its ids. MinIO also quotes the slashes of keys."""
CLOUD_EVENT = json.dumps({"specversion": "1.0", "id": "1", "source": "shop", "type": "put", "data": S3_EVENT})


@contextmanager
def listening(*tasks: Task) -> Iterator[tuple[EventReceiver, str]]:
    """Yield a receiver, and the address that it listens on."""
    events = EventReceiver(TOKEN, tasks or (TASK,), health := Health(["pets"]))
    with serving("127.0.0.1", 0, health_app(health, events.answer), Posts(PATH, BODY_BYTES)) as port:
        yield events, f"http://127.0.0.1:{port}"


def post(url: str, body: str, token: str | None = TOKEN, method: str = "POST") -> int:
    """Send a request, and return the status of the reply."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, body.encode() if method == "POST" else None, headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize("body", [notification("data", DROP), MINIO, CLOUD_EVENT])
def test_pushed_event_delivers_its_drop_once(body: str) -> None:
    with listening() as (events, url):
        assert post(f"{url}/events", body) == 200
        assert events.receive(60).drops == {"pets": {"d-1"}}
        assert events.receive(0).drops == {}


def test_event_is_accepted_only_with_the_token() -> None:
    with listening() as (events, url):
        for token in (None, "", "another token of some length"):
            assert post(f"{url}/events", MINIO, token) == 401
        assert post(f"{url}/events?token=a", MINIO, None) == 401
        assert events.receive(0).drops == {}
        assert post(f"{url}/events?token={quote(TOKEN)}", MINIO, None) == 200
        assert events.receive(60).drops == {"pets": {"d-1"}}


def test_requests_without_a_watched_drop_deliver_nothing() -> None:
    with listening() as (events, url):
        assert post(f"{url}/events", "{}") == 400
        assert post(f"{url}/events", "") == 200
        assert post(f"{url}/events", "", method="GET") == 405
        assert post(f"{url}/healthz", MINIO) == 405
        assert post(f"{url}/events", notification("other", DROP)) == 200
        assert post(f"{url}/healthz", "", method="GET") == 200
        assert events.receive(0).drops == {}


def test_body_that_is_too_large_is_refused_before_it_is_read() -> None:
    """Send only the request's headers, because a client may see the connection closed while it still sends the body."""
    with listening() as (_, url):
        for size, status in ((BODY_BYTES + 1, 413), (0, 200)):
            connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
            connection.putrequest("POST", "/events")
            connection.putheader("Authorization", f"Bearer {TOKEN}")
            connection.putheader("Content-Length", str(size))
            connection.endheaders()
            assert connection.getresponse().status == status
            connection.close()


def test_event_grid_is_allowed_only_with_the_token() -> None:
    """Event Grid delivers events only to an address whose reply allows Event Grid's origin."""
    with listening() as (_, url):
        for token, status, allowed in (
            (TOKEN, 200, "eventgrid.azure.net"),
            ("another token of some length", 401, None),
        ):
            connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
            headers = {"WebHook-Request-Origin": "eventgrid.azure.net"}
            connection.request("OPTIONS", f"/events?token={quote(token)}", headers=headers)
            reply = connection.getresponse()
            assert (reply.status, reply.getheader("WebHook-Allowed-Origin")) == (status, allowed)
            connection.close()


def test_event_is_refused_if_too_many_drops_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "MOST_WAITING", 2)
    with listening() as (events, url):
        answered = [post(f"{url}/events", notification("data", DROP.replace("d-1", f"d-{n}"))) for n in range(3)]
        assert answered == [200, 200, 503]
        assert events.receive(0).drops == {"pets": {"d-0", "d-1"}}


def test_short_token_is_refused() -> None:
    with pytest.raises(UserError, match=r"\$RETRAIN_EVENTS_TOKEN has 5 characters; at least 16 are needed"):
        EventReceiver("short", [TASK], Health([]))


def test_event_pushed_by_ceph_delivers_its_drop(ceph: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ceph cannot send the token in a header, so it is in the URL. With `cloudevents`, Ceph adds other headers."""
    environment = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": KEY, "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in (environment | {"NO_PROXY": "127.0.0.1"}).items():
        monkeypatch.setenv(name, value)
    with listening() as (events, url):
        s3, sns = (boto3.client(service, endpoint_url=ceph) for service in ("s3", "sns"))
        s3.create_bucket(Bucket="data")
        for form in ("false", "true"):
            push = {"push-endpoint": f"{url}/events?token={quote(TOKEN)}", "cloudevents": form}
            topic = {
                "Id": form,
                "TopicArn": sns.create_topic(Name=f"drops-{form}", Attributes=push)["TopicArn"],
                "Events": ["s3:ObjectCreated:*"],
            }
            s3.put_bucket_notification_configuration(
                Bucket="data", NotificationConfiguration={"TopicConfigurations": [topic]}
            )
            open_store("s3://data/models", ceph).write(f"pets/drops/d-{form}/_SUCCESS", b"")
            assert events.receive(60).drops == {"pets": {f"d-{form}"}}
        s3.close()
        sns.close()
