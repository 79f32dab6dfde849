"""Read what an audit needs from S3: all objects of a store, and all versions of one key."""

from typing import Any
from uuid import uuid4

import boto3

from chaos.place import KEYS
from retrain.store import ObjectStore


def objects(store: ObjectStore) -> dict[str, bytes]:
    """Return all objects of the task by their keys, without the task's name."""
    prefix = f"{KEYS.task}/"
    return {entry.key.removeprefix(prefix): store.read(entry.key)[0] for entry in store.list(prefix)}


def versioned_bucket(server: str) -> str:
    """Return a new bucket that keeps every version of its objects."""
    client, name = boto3.client("s3", endpoint_url=server), f"chaos-{uuid4().hex}"
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    client.close()
    return name


def versions(server: str, bucket: str, key: str) -> list[bytes]:
    """Return all versions of an object, oldest first."""
    client: Any = boto3.client("s3", endpoint_url=server)
    found = client.list_object_versions(Bucket=bucket, Prefix=key).get("Versions", [])
    identities = [version["VersionId"] for version in reversed(found)]
    bodies = [client.get_object(Bucket=bucket, Key=key, VersionId=identity)["Body"] for identity in identities]
    data = [body.read() for body in bodies]
    client.close()
    return data
