"""Stores on S3: racing processes over HTTP, failing servers, and error messages."""

import os
import time
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from botocore.loaders import JSONFileLoader
from support.faulty_s3 import Fault, Forward, Reply, Request, faulty, refusal
from support.races import PROCESSES, claim_all, count_up, race
from support.store_faults import First, cut, lost_reply, reset, truncated

from retrain.errors import StoreError
from retrain.store import Conflict, Entry, Missing, ObjectStore, open_store, requests
from retrain.store.base import probe_conditional_writes
from retrain.store.s3.store import LARGE
from retrain.store.s3.transfers import PART
from retrain.utils.histograms import Durations


def ignoring(condition: str) -> Fault:
    def fault(request: Request, forward: Forward) -> Reply:
        request.headers.pop(condition, None)
        return forward(request)

    return fault


def test_each_claim_of_racing_processes_has_one_winner(s3: str, bucket: str) -> None:
    outcomes = race(claim_all, f"s3://{bucket}/t", s3)
    assert sorted(key for won in outcomes for key in won) == sorted(f"claims/{index}" for index in range(20))


def test_racing_swaps_lose_no_update(s3: str, bucket: str) -> None:
    store = open_store(f"s3://{bucket}/t", s3)
    store.create("counter", b"0 -")
    race(count_up, f"s3://{bucket}/t", s3)
    assert store.read("counter")[0].split()[0] == b"%d" % (20 * PROCESSES)


def test_s3_keys_stay_under_the_prefix_and_skip_foreign_names(s3: str, bucket: str) -> None:
    client = boto3.client("s3", endpoint_url=s3)
    store = open_store(f"s3://{bucket}/team/models/", s3)
    assert store.url == f"s3://{bucket}/team/models"
    store.write("t/champion.json", b"")
    for foreign in ("team/models/t/", "team/models-2/x", "other"):
        client.put_object(Bucket=bucket, Key=foreign)
    assert [entry.key for entry in store.list()] == ["t/champion.json"]
    bucket_store = open_store(f"s3://{bucket}", s3)
    assert [entry.key for entry in bucket_store.list()] == ["other", "team/models-2/x", "team/models/t/champion.json"]
    client.close()


def test_lost_reply_to_a_conditional_write_is_recognized(s3: str, bucket: str) -> None:
    with faulty(s3, First("PUT", lost_reply)) as endpoint:
        version = open_store(f"s3://{bucket}/t", endpoint).create("claim", b"mine")
    with faulty(s3, First("PUT", lost_reply)) as endpoint:
        second = open_store(f"s3://{bucket}/t", endpoint).replace("claim", b"still mine", version)
    assert open_store(f"s3://{bucket}/t", s3).read("claim") == (b"still mine", second)


def test_lost_reply_does_not_hide_a_conflict(s3: str, bucket: str) -> None:
    def another_wins(request: Request, forward: Forward) -> None:
        open_store(f"s3://{bucket}/t", s3).write("claim", b"theirs")

    with faulty(s3, First("PUT", another_wins)) as endpoint, pytest.raises(Conflict):
        open_store(f"s3://{bucket}/t", endpoint).create("claim", b"mine")


def test_conflicting_write_is_retried(s3: str, bucket: str) -> None:
    def busy(request: Request, forward: Forward) -> Reply:
        return refusal(409, "ConditionalRequestConflict")

    with faulty(s3, First("PUT", busy, count=2)) as endpoint:
        open_store(f"s3://{bucket}/t", endpoint).create("claim", b"mine")
    with faulty(s3, busy) as endpoint, pytest.raises(StoreError, match="ConditionalRequestConflict"):
        open_store(f"s3://{bucket}/t", endpoint).create("claim", b"mine")


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError")])
def test_request_to_a_busy_server_is_retried(s3: str, bucket: str, status: int, code: str) -> None:
    with faulty(s3, First("PUT", lambda *_: refusal(status, code))) as endpoint:
        open_store(f"s3://{bucket}/t", endpoint).write("k", b"1")
    assert open_store(f"s3://{bucket}/t", s3).read("k")[0] == b"1"


def test_interrupted_body_is_resumed_at_the_break(s3: str, bucket: str, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    open_store(f"s3://{bucket}/t", s3).write("k", content)
    with faulty(s3, First("GET", cut, count=3)) as endpoint:
        assert open_store(f"s3://{bucket}/t", endpoint).read("k")[0] == content
    with faulty(s3, First("GET", cut, count=3)) as endpoint:
        open_store(f"s3://{bucket}/t", endpoint).download("k", tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == content


@pytest.mark.parametrize("broken", [cut, reset, truncated])
def test_broken_reply_is_requested_again(s3: str, bucket: str, tmp_path: Path, broken: Fault) -> None:
    content = os.urandom(100_000)
    with faulty(s3, First("PUT", broken, count=2)) as endpoint:
        version = open_store(f"s3://{bucket}/t", endpoint).create("k", content)
    with faulty(s3, First("GET", broken, count=2)) as endpoint:
        assert list(open_store(f"s3://{bucket}/t", endpoint).list()) == [Entry("k", len(content))]
    with faulty(s3, First("GET", broken, count=2)) as endpoint:
        assert open_store(f"s3://{bucket}/t", endpoint).read("k") == (content, version)
    with faulty(s3, First("GET", broken, count=2)) as endpoint:
        open_store(f"s3://{bucket}/t", endpoint).download("k", tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == content


def test_body_corrupted_in_transit_is_refused(s3: str, bucket: str) -> None:
    open_store(f"s3://{bucket}/t", s3).write("k", b"right")

    def change(request: Request, forward: Forward) -> Reply:
        reply = forward(request)
        return replace(reply, body=reply.body.replace(b"right", b"wrong"))

    with (
        faulty(s3, change) as endpoint,
        pytest.raises(StoreError, match=r"k: the server's reply is broken: .*checksum"),
    ):
        open_store(f"s3://{bucket}/t", endpoint).read("k")


class LostEnd:
    """A fault that drops the reply to the last request of a multipart upload.

    The repeated request gets the error `NoSuchUpload`.
    """

    def __init__(self) -> None:
        self.ended = ""

    def __call__(self, request: Request, forward: Forward) -> Reply | None:
        if request.method != "POST" or "uploadId=" not in request.path or self.ended not in ("", request.path):
            return forward(request)
        if self.ended:
            return refusal(404, "NoSuchUpload")
        self.ended = request.path
        return lost_reply(request, forward)


def test_lost_reply_to_a_multipart_completion_is_harmless(s3: str, bucket: str, tmp_path: Path) -> None:
    content, fault = os.urandom(LARGE), LostEnd()
    (tmp_path / "shard").write_bytes(content)
    with faulty(s3, fault) as endpoint:
        open_store(f"s3://{bucket}/t", endpoint).upload(tmp_path / "shard", "k")
    assert fault.ended
    assert open_store(f"s3://{bucket}/t", s3).read("k")[0] == content


class RangeRecorder:
    """A fault that records the requested byte ranges, and lets another fault send the reply."""

    def __init__(self, fault: Fault) -> None:
        self.ranges: list[str] = []
        self.fault = fault

    def __call__(self, request: Request, forward: Forward) -> Reply | None:
        if request.method == "GET" and "list-type" not in request.path:
            self.ranges.append(request.headers.get("Range", "all"))
            return self.fault(request, forward)
        return forward(request)


def large(s3: str, bucket: str) -> bytes:
    content = os.urandom(3 * PART + 12_345)
    open_store(f"s3://{bucket}/t", s3).write("k", content)
    return content


def test_each_part_of_a_large_object_is_fetched_once(s3: str, bucket: str, tmp_path: Path) -> None:
    content, asked = large(s3, bucket), RangeRecorder(lambda request, forward: forward(request))
    with faulty(s3, asked) as endpoint:
        open_store(f"s3://{bucket}/t", endpoint).download("k", tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == content
    assert asked.ranges[0] == "all"
    parts = {f"bytes={start}-{min(start + PART, len(content)) - 1}" for start in range(PART, len(content), PART)}
    assert len(set(asked.ranges)) == len(asked.ranges)
    assert set(asked.ranges[1:]) <= parts


def test_interrupted_parts_are_resumed_at_the_break(s3: str, bucket: str, tmp_path: Path) -> None:
    content, asked = large(s3, bucket), RangeRecorder(First("GET", cut, count=4))
    with faulty(s3, asked) as endpoint:
        open_store(f"s3://{bucket}/t", endpoint).download("k", tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == content
    assert any(asked.ranges.count(each) == 1 and each.endswith("-") for each in asked.ranges)


def test_download_fails_if_the_object_changes_between_parts(s3: str, bucket: str, tmp_path: Path) -> None:
    large(s3, bucket)

    def overwrite(request: Request, forward: Forward) -> Reply:
        reply = forward(request)
        large(s3, bucket)
        return reply

    with (
        faulty(s3, RangeRecorder(First("GET", overwrite))) as endpoint,
        pytest.raises(StoreError, match="PreconditionFailed"),
    ):
        open_store(f"s3://{bucket}/t", endpoint).download("k", tmp_path / "k")
    assert list(tmp_path.iterdir()) == []


def test_download_that_fails_at_every_attempt_leaves_no_file(s3: str, bucket: str, tmp_path: Path) -> None:
    open_store(f"s3://{bucket}/t", s3).write("k", b"x" * 1000)
    with faulty(s3, lambda r, forward: cut(r, forward) if r.method == "GET" else forward(r)) as endpoint:
        store = open_store(f"s3://{bucket}/t", endpoint)
        with pytest.raises(StoreError, match="k"):
            store.download("k", tmp_path / "k")
        with pytest.raises(StoreError, match="k"):
            store.read("k")
    assert list(tmp_path.iterdir()) == []


def test_read_fails_if_the_object_is_overwritten_meanwhile(s3: str, bucket: str) -> None:
    direct = open_store(f"s3://{bucket}/t", s3)
    direct.write("k", b"old" * 1000)

    def cut_and_overwrite(request: Request, forward: Forward) -> Reply:
        reply = cut(request, forward)
        direct.write("k", b"new" * 1000)
        return reply

    with faulty(s3, First("GET", cut_and_overwrite)) as endpoint, pytest.raises(StoreError, match="PreconditionFailed"):
        open_store(f"s3://{bucket}/t", endpoint).read("k")


@pytest.mark.parametrize("condition", ["If-None-Match", "If-Match"])
def test_probe_refuses_a_server_that_ignores_a_condition(s3: str, bucket: str, condition: str) -> None:
    with faulty(s3, ignoring(condition)) as endpoint:
        store = open_store(f"s3://{bucket}/t", endpoint)
        with pytest.raises(StoreError, match=f"ignores {condition}"):
            probe_conditional_writes(store)
    assert list(open_store(f"s3://{bucket}/t", s3).list()) == []


def operations(store: ObjectStore, folder: Path) -> list[str]:
    """Return the error messages of operations that must fail. These are the first operations of new users."""
    (folder / "file").write_bytes(b"x")
    said = []
    for operation in (
        lambda: list(store.list()),
        lambda: store.create("k", b""),
        lambda: store.open("k"),
        lambda: store.upload(folder / "file", "k"),
    ):
        with pytest.raises(StoreError) as raised:
            operation()
        said.append(str(raised.value))
    return said


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_wrong_credentials_are_reported(s3: str, code: str, tmp_path: Path) -> None:
    with faulty(s3, lambda *_: refusal(403, code)) as endpoint:
        for message in operations(open_store("s3://models/t", endpoint), tmp_path):
            assert f"s3://models/t at {endpoint}" in message
            assert code in message
            assert "Check the credentials: AWS_ACCESS_KEY_ID" in message


def test_missing_bucket_is_reported(s3: str, tmp_path: Path) -> None:
    for message in operations(open_store("s3://no-such-bucket-here/t", s3), tmp_path):
        assert f"s3://no-such-bucket-here/t at {s3}" in message
        assert "the bucket does not exist (NoSuchBucket). Create the bucket, or correct the task's `store`." in message


def test_denied_request_names_operation_and_policy(s3: str, tmp_path: Path) -> None:
    with faulty(s3, lambda *_: refusal(403, "AccessDenied")) as endpoint:
        first, *others = operations(open_store("s3://models/t", endpoint), tmp_path)
    assert "the credentials do not allow ListObjectsV2 (AccessDenied). Check that their policy allows it" in first
    assert all("the credentials do not allow " in message for message in others)


@pytest.mark.parametrize(
    ("status", "page", "said"),
    [
        (200, b"<html><body/></html>", "the server's reply is broken: it is no listing of a bucket"),
        (200, b"<html><br>", r"An error occurred \(500\).* Try again later"),
        (404, b"<html><body/></html>", "ListObjectsV2 got status 404 from a server that is not S3"),
    ],
)
def test_website_at_the_endpoint_is_reported(s3: str, status: int, page: bytes, said: str) -> None:
    headers = {"Content-Type": "text/html", "Content-Length": str(len(page))}
    with faulty(s3, lambda *_: Reply(status, headers, page)) as endpoint:
        for listing in (lambda store: list(store.list()), lambda store: list(store.folders(""))):
            with pytest.raises(StoreError, match=rf"{said}.*endpoint_url"):
                listing(open_store("s3://models/t", endpoint))


def test_unreachable_server_is_reported_within_a_minute(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "REQUESTS", Durations(requests.BOUNDS))
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"s3://models/t at http://127\.0\.0\.1:9, k: .*cannot be .*endpoint_url"):
        open_store("s3://models/t", "http://127.0.0.1:9").read("k")
    assert time.monotonic() - started < 60
    assert list(requests.REQUESTS.read()) == [("GetObject",)]


def test_requests_are_timed_by_operation(
    s3: str, bucket: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(requests, "REQUESTS", Durations(requests.BOUNDS))
    caplog.set_level("DEBUG", logger="retrain")
    store = open_store(f"s3://{bucket}/t", s3)
    store.write("a", b"1")
    store.read("a")
    with pytest.raises(Missing):
        store.read("b")
    counted = {labels: (seen.cumulative[-1], seen.seconds > 0) for labels, seen in requests.REQUESTS.read().items()}
    assert counted == {("PutObject",): (1, True), ("GetObject",): (2, True)}
    assert any(message.startswith("S3 GetObject took 0.") for message in caplog.messages)


@pytest.mark.parametrize("address", ["s3://models/t", "gs://models/t", "az://models/t"])
def test_endpoint_without_scheme_is_refused(address: str) -> None:
    with pytest.raises(StoreError, match="endpoint_url localhost: must begin with http:// or https://"):
        open_store(address, "localhost")


def test_bucket_name_that_s3_forbids_is_reported(s3: str) -> None:
    with pytest.raises(StoreError, match=r"s3://Not A Bucket/t at .*the bucket's name is not allowed in S3"):
        open_store("s3://Not A Bucket/t", s3).read("k")


def test_absent_credentials_are_reported(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with pytest.raises(StoreError, match="Check the credentials"):
        open_store("s3://models/t", s3).read("k")


def test_stores_share_botocores_descriptions(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Separate descriptions of S3's API would take 12 GB of memory in a watcher of 1,000 tasks."""
    read, load_file = list[str](), JSONFileLoader.load_file

    def noting(loader: JSONFileLoader, path: str) -> object:
        read.append(path)
        return load_file(loader, path)

    open_store("s3://models/first", s3)
    monkeypatch.setattr(JSONFileLoader, "load_file", noting)
    open_store("s3://models/second", s3)
    assert read == []
