"""Parse the events of object stores, and return the objects that were written.

S3 sends events directly, through SNS, through EventBridge, or as CloudEvents. Google Cloud Storage sends them through
Pub/Sub, and Azure Blob Storage through Event Grid.
"""

import json
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple
from urllib.parse import unquote_plus

from pydantic import BaseModel, Field, ValidationError


class EventError(ValueError):
    """A message is not an event of an object store."""


FINAL_FILES = ("drop.json", "_SUCCESS")
"""Names of the objects that complete a drop: its manifest, and the marker of a finished upload. Events about other
objects are ignored."""


class WrittenObject(NamedTuple):
    """An object that was written. Its key may be URL-quoted (`a+b%3D`): AWS quotes keys, some servers do not."""

    bucket: str
    key: str

    def completed_drop(self, bucket: str, prefix: str) -> str | None:
        """Return the id of the drop that this object completes, if its key has this bucket and prefix."""
        for key in (self.key, unquote_plus(self.key)):
            drop, _, name = key.removeprefix(prefix).partition("/")
            if self.bucket == bucket and key.startswith(prefix) and name in FINAL_FILES:
                return drop
        return None


class _Bucket(BaseModel):
    name: str


class _Object(BaseModel):
    key: str


class _Location(BaseModel):
    bucket: _Bucket
    object: _Object


class _Record(BaseModel):
    event_name: str = Field(alias="eventName")
    s3: _Location


class _Notification(BaseModel):
    records: list[_Record] = Field(alias="Records")


class _EventBridgeEvent(BaseModel):
    """An event from EventBridge. Its keys are not quoted."""

    source: Literal["aws.s3"]
    detail_type: str = Field(alias="detail-type")
    detail: _Location


class _SnsMessage(BaseModel):
    """A message that came through an SNS topic without raw delivery."""

    type: Literal["Notification"] = Field(alias="Type")
    message: str = Field(alias="Message")


class _CloudEvent(BaseModel):
    """A CloudEvent in structured mode. In binary mode the body is the event itself."""

    specversion: Literal["1.0"]
    type: str = ""
    subject: str = ""
    data: dict[str, object]


class _GoogleObject(BaseModel):
    """Attributes of a message of Google Cloud Storage."""

    event_type: str = Field(alias="eventType")
    bucket: str = Field(alias="bucketId")
    key: str = Field(alias="objectId")


class _PubSubMessage(BaseModel):
    attributes: _GoogleObject


class _PubSubPush(BaseModel):
    """A message that a Pub/Sub subscription pushes."""

    message: _PubSubMessage
    subscription: str


AZURE_BLOB = re.compile(r"/?blobServices/default/containers/([^/]+)/blobs/(.+)")
"""Pattern of the subject of an Event Grid event about a blob. Its groups are the container's and the blob's name."""


def parse_event(body: str) -> list[WrittenObject]:
    """Return the objects that were written according to a message.

    The list is empty for S3's test event and for removed objects. Raises `EventError` if the message is neither an
    S3 notification (plain, or wrapped by SNS or as a CloudEvent), nor an EventBridge event, nor a message pushed by
    Pub/Sub, nor one or several CloudEvents of Event Grid.
    """
    try:
        document = json.loads(body)
        batch = document if document and isinstance(document, list) else [document]
        return [written for event in batch for written in _parse_one(event)]
    except (ValueError, RecursionError) as error:  # the latter for JSON that is nested too deeply
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise EventError(f"not an event of an object store: {what}: {body[:200]!r}") from error


def _parse_one(document: object) -> Iterator[WrittenObject]:
    """Yield the objects of one event. The fields of its envelope show which service sent it."""
    if isinstance(document, dict) and document.get("Type") == "Notification":
        document = json.loads(_SnsMessage.model_validate(document).message)
    if isinstance(document, dict) and "specversion" in document:
        event = _CloudEvent.model_validate(document)
        if event.type.startswith("Microsoft.Storage."):
            yield from _parse_azure(event)
            return
        document = event.data
    pushed = isinstance(document, dict) and "subscription" in document
    yield from _parse_google(document) if pushed else _parse_s3(document)


def _parse_azure(event: _CloudEvent) -> Iterator[WrittenObject]:
    if event.type == "Microsoft.Storage.BlobCreated":
        if not (blob := AZURE_BLOB.fullmatch(event.subject)):
            raise ValueError(f"subject {event.subject!r} does not name a blob")
        yield WrittenObject(*blob.groups())


def _parse_google(document: object) -> Iterator[WrittenObject]:
    written = _PubSubPush.model_validate(document).message.attributes
    if written.event_type == "OBJECT_FINALIZE":
        yield WrittenObject(written.bucket, written.key)


def _parse_s3(document: object) -> Iterator[WrittenObject]:
    if isinstance(document, dict) and document.get("Event") == "s3:TestEvent":
        return
    if isinstance(document, dict) and "detail-type" in document:
        event = _EventBridgeEvent.model_validate(document)
        if event.detail_type == "Object Created":
            yield WrittenObject(event.detail.bucket.name, event.detail.object.key)
        return
    for record in _Notification.model_validate(document).records:
        if record.event_name.removeprefix("s3:").startswith("ObjectCreated:"):
            yield WrittenObject(record.s3.bucket.name, record.s3.object.key)
