"""Events of object stores are parsed in every form in which servers send them."""

import json

import pytest

from retrain.watcher.events import EventError, WrittenObject, parse_event

PREFIX = "team a/pets/drops/"


def notification(*keys: str, name: str = "ObjectCreated:Put") -> str:
    """Return the body of a message, with fields that AWS sends and this project does not read."""
    records = [
        {
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "eventName": name,
            "s3": {"bucket": {"name": "lake", "arn": "arn:aws:s3:::lake"}, "object": {"key": key, "size": 1}},
        }
        for key in keys
    ]
    return json.dumps({"Records": records})


def completed_drops(body: str) -> list[str | None]:
    return [written.completed_drop("lake", PREFIX) for written in parse_event(body)]


def test_s3_test_event_names_no_object() -> None:
    body = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2026-11-21T00:00:00Z", "Bucket": "lake"}
    assert parse_event(json.dumps(body)) == []


def test_one_message_can_contain_several_events() -> None:
    assert parse_event(notification("a", "b")) == [WrittenObject("lake", "a"), WrittenObject("lake", "b")]


@pytest.mark.parametrize("key", ["team+a/pets/drops/week-1/drop.json", "team a/pets/drops/week-1/drop.json"])
def test_keys_are_read_quoted_and_unquoted(key: str) -> None:
    assert completed_drops(notification(key)) == ["week-1"]


def test_plus_in_an_unquoted_key_stays_a_plus() -> None:
    [written] = parse_event(notification("a+b/pets/drops/week-1/_SUCCESS"))
    assert written.completed_drop("lake", "a+b/pets/drops/") == "week-1"


@pytest.mark.parametrize(
    "key",
    [
        "team+a/pets/drops/week-1/train-000000.tar",
        "team+a/pets/drops/drop.json",
        "team+a/pets/drops/week-1/more/drop.json",
        "team+a/birds/drops/week-1/drop.json",
        "pets/drops/week-1/drop.json",
    ],
)
def test_event_of_another_object_completes_no_drop(key: str) -> None:
    assert completed_drops(notification(key)) == [None]


def test_event_of_another_bucket_is_ignored() -> None:
    [written] = parse_event(notification("team+a/pets/drops/week-1/drop.json"))
    assert written.completed_drop("pond", PREFIX) is None


def test_event_of_a_removed_object_is_ignored() -> None:
    assert parse_event(notification("x", name="ObjectRemoved:Delete")) == []
    assert parse_event(notification("x", name="s3:ObjectCreated:Copy")) == [WrittenObject("lake", "x")]


@pytest.mark.parametrize(
    "body", ["", "hello", "[]", "{}", '{"Records": [{"eventName": "x"}]}', '{"Records": 1}', 100_000 * "["]
)
def test_body_without_an_event_is_refused(body: str) -> None:
    with pytest.raises(EventError, match="not an event of an object store"):
        parse_event(body)


def google_message(key: str, kind: str = "OBJECT_FINALIZE") -> str:
    """Return a message of Google Cloud Storage as a Pub/Sub subscription pushes it."""
    attributes = {"eventType": kind, "bucketId": "lake", "objectId": key, "payloadFormat": "JSON_API_V1"}
    message = {"attributes": attributes, "data": "e30=", "messageId": "1", "publishTime": "2026-11-21T00:00:00Z"}
    return json.dumps({"message": message, "subscription": "projects/p/subscriptions/retrain"})


def azure_event(key: str, kind: str = "BlobCreated", slash: str = "/") -> dict[str, object]:
    """Return a CloudEvent of Azure Blob Storage as Event Grid delivers it."""
    return {
        "specversion": "1.0",
        "type": f"Microsoft.Storage.{kind}",
        "source": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/a",
        "id": "9aeb0fdf-c01e-0131-0922-9eb54906e209",
        "subject": f"{slash}blobServices/default/containers/lake/blobs/{key}",
        "data": {"api": "PutBlob", "contentLength": 1, "url": "https://a.blob.core.windows.net/lake/x"},
    }


def test_google_message_names_its_object() -> None:
    assert completed_drops(google_message("team a/pets/drops/week-1/_SUCCESS")) == ["week-1"]
    assert parse_event(google_message("x", "OBJECT_DELETE")) == []


@pytest.mark.parametrize("slash", ["", "/"])
def test_event_grids_cloud_event_names_its_object(slash: str) -> None:
    key = "team a/pets/drops/week-1/drop.json"
    assert completed_drops(json.dumps(azure_event(key, slash=slash))) == ["week-1"]
    assert parse_event(json.dumps(azure_event(key, "BlobDeleted"))) == []


def test_batch_of_cloud_events_names_all_written_objects() -> None:
    batch = [azure_event("a"), azure_event("b", "BlobRenamed"), azure_event("c")]
    assert parse_event(json.dumps(batch)) == [WrittenObject("lake", "a"), WrittenObject("lake", "c")]


def test_damaged_google_and_azure_events_are_refused() -> None:
    for body in (azure_event("x") | {"subject": "elsewhere"}, {"subscription": "s", "message": {"attributes": {}}}):
        with pytest.raises(EventError, match="not an event of an object store"):
            parse_event(json.dumps(body))


def eventbridge_event(kind: str, key: str) -> dict[str, object]:
    """Return an S3 event as EventBridge sends it."""
    detail = {"version": "0", "bucket": {"name": "b"}, "object": {"key": key, "size": 0}, "reason": "PutObject"}
    return {"version": "0", "source": "aws.s3", "detail-type": kind, "region": "eu-west-1", "detail": detail}


def test_event_in_an_sns_message_names_its_object() -> None:
    record = {
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": "b"}, "object": {"key": "p/pets/drops/a/drop.json"}},
    }
    for message in ({"Records": [record]}, eventbridge_event("Object Created", "p/pets/drops/a/drop.json")):
        [written] = parse_event(json.dumps({"Type": "Notification", "MessageId": "1", "Message": json.dumps(message)}))
        assert written.completed_drop("b", "p/pets/drops/") == "a"
    test_event = {"Type": "Notification", "Message": json.dumps({"Event": "s3:TestEvent"})}
    assert parse_event(json.dumps(test_event)) == []


def test_eventbridge_event_names_its_object() -> None:
    [written] = parse_event(json.dumps(eventbridge_event("Object Created", "team a/pets/drops/a+b/_SUCCESS")))
    assert written.completed_drop("b", "team a/pets/drops/") == "a+b"
    assert parse_event(json.dumps(eventbridge_event("Object Deleted", "p/pets/drops/a/drop.json"))) == []


@pytest.mark.parametrize(
    "body", [{"Type": "Notification"}, {"Type": "Notification", "Message": "hello"}, {"detail-type": "Object Created"}]
)
def test_envelope_without_an_event_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(EventError, match="not an event of an object store"):
        parse_event(json.dumps(body))
