"""Stores on Google Cloud Storage and Azure: races over HTTP, failing servers, and error messages."""

import os
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from support.clouds import cloud_store, disturbed
from support.faulty_s3 import Fault, Forward, Reply, Request, refusal
from support.races import PROCESSES, claim_all, count_up, race
from support.store_faults import PASSING, First, cut, lost_reply, reset

from retrain.errors import StoreError
from retrain.store import Conflict, Entry, Missing, ObjectStore, open_store, requests
from retrain.store.base import probe_conditional_writes
from retrain.store.cloud.services import RETRY, SERVICES
from retrain.store.cloud.store import PART
from retrain.utils.histograms import Durations

BOTH = pytest.mark.parametrize("scheme", ["gs", "az"])


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make obstore wait only milliseconds before it retries a request."""
    short = timedelta(milliseconds=5)
    monkeypatch.setitem(RETRY, "backoff", {"init_backoff": short, "max_backoff": short, "base": 2})


@pytest.fixture
def place(scheme: str, request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return the address of an empty store, and the address of its server."""
    return cloud_store(scheme, request)


def make(address: str) -> None:
    """Create an empty object at an address. Its name need not be a valid key."""
    urllib.request.urlopen(urllib.request.Request(address, method="PUT")).close()


@BOTH
def test_each_cloud_claim_of_racing_processes_has_one_winner(scheme: str, place: tuple[str, str]) -> None:
    outcomes = race(claim_all, *place)
    assert sorted(key for won in outcomes for key in won) == sorted(f"claims/{index}" for index in range(20))


@BOTH
def test_racing_swaps_in_a_cloud_lose_no_update(scheme: str, place: tuple[str, str]) -> None:
    store = open_store(*place)
    store.create("counter", b"0 -")
    race(count_up, *place)
    assert store.read("counter")[0].split()[0] == b"%d" % (20 * PROCESSES)


@BOTH
def test_cloud_keys_stay_under_the_prefix(scheme: str, place: tuple[str, str]) -> None:
    url, server = place
    bucket = url.removesuffix("/some/prefix")
    store, bucket_store = open_store(f"{bucket}/team/models/", server), open_store(bucket, server)
    assert store.url == f"{bucket}/team/models"
    store.write("t/champion.json", b"")
    for foreign in ("team/models-2/x", "other"):
        bucket_store.write(foreign, b"")
    assert [entry.key for entry in store.list()] == ["t/champion.json"]
    assert [entry.key for entry in bucket_store.list()] == ["other", "team/models-2/x", "team/models/t/champion.json"]
    assert list(bucket_store.folders("")) == ["team"]


@BOTH
def test_cloud_requests_are_timed_by_operation(
    scheme: str, place: tuple[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The metric of store requests has the same operations on every store."""
    monkeypatch.setattr(requests, "REQUESTS", Durations(requests.BOUNDS))
    caplog.set_level("DEBUG", logger="retrain")
    store = open_store(*place)
    store.write("a", b"1")
    store.read("a")
    with pytest.raises(Missing):
        store.read("b")
    counted = {labels: (seen.cumulative[-1], seen.seconds > 0) for labels, seen in requests.REQUESTS.read().items()}
    assert counted == {("PutObject",): (1, True), ("GetObject",): (2, True)}
    assert any("GetObject failed after 0." in message for message in caplog.messages)


def test_folder_marker_in_gcs_is_listed_as_unusual(gcs: str, request: pytest.FixtureRequest) -> None:
    """Google's console creates this empty object when a person creates a folder."""
    url, server = cloud_store("gs", request)
    bucket = url.removeprefix("gs://").partition("/")[0]
    make(f"{server}/{bucket}/some/prefix/t/empty/")
    store = open_store(url, server)
    store.write("t/_SUCCESS", b"")
    assert [entry.key for entry in store.list("t/")] == ["t/_SUCCESS"]
    assert [(entry.key, entry.size) for entry in store.list_unusual("t/")] == [("t/empty/", 0)]


def test_invalid_object_name_in_gcs_is_reported(gcs: str, request: pytest.FixtureRequest) -> None:
    url, server = cloud_store("gs", request)
    bucket = url.removeprefix("gs://").partition("/")[0]
    make(f"{server}/{bucket}/some/prefix/t/a//b")
    with pytest.raises(StoreError, match=r"t/a//b.*delete the object, or upload it under another name"):
        list(open_store(url, server).list("t/"))


@BOTH
def test_missing_bucket_in_a_cloud_is_reported(scheme: str, place: tuple[str, str]) -> None:
    absent = open_store(f"{scheme}://no-such-bucket-here/t", place[1])
    for operation in (lambda: list(absent.list()), lambda: absent.create("k", b""), lambda: absent.open("k")):
        with pytest.raises(StoreError, match=r"the (bucket|container) does not exist\. Create it") as raised:
            operation()
        assert f"{scheme}://no-such-bucket-here/t at {place[1]}" in str(raised.value)


def test_wrong_azure_key_is_reported(azure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc=")
    with pytest.raises(StoreError, match=r"403.*Check the credentials: AZURE_STORAGE_ACCOUNT_KEY"):
        open_store("az://models/t", azure).read("k")


@pytest.mark.parametrize(
    ("address", "variable", "value"),
    [
        ("gs://models/t", "GOOGLE_SERVICE_ACCOUNT_KEY", '{"private_key": "planted secret"'),
        ("az://models/t", "AZURE_STORAGE_ACCOUNT_KEY", "planted secret"),
    ],
)
def test_unreadable_cloud_credentials_are_reported(
    azure: str, monkeypatch: pytest.MonkeyPatch, address: str, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(StoreError, match="Check the credentials: ") as raised:
        open_store(address)
    assert "planted" not in str(raised.value)


def test_azure_account_name_is_read_from_the_endpoint(azure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    client = SERVICES["az"].open("models", "https://birds.blob.core.windows.net")
    assert dict(client.config)["account_name"] == "birds"


def test_unnamed_azure_account_is_reported(azure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    with pytest.raises(StoreError, match=r"Set `endpoint_url` in the task to https://ACCOUNT\.blob"):
        open_store("az://models/t", azure)


@pytest.mark.parametrize(("address", "extra"), [("gs://models/t", "gcs"), ("az://models/t", "azure")])
def test_cloud_store_error_names_the_missing_extra(address: str, extra: str) -> None:
    program = (
        f"import sys; sys.modules['obstore'] = None; from retrain.store import open_store; open_store({address!r})"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert f"needs obstore: pip install 'retrain-classifiers[{extra}]'" in ended.stderr


SHORT = {name: fault for name, fault in PASSING.items() if name not in ("latency", "truncated")}
"""Temporary faults without delays. obstore cannot detect `truncated`, because it compares no checksums of bodies."""


@BOTH
@pytest.mark.parametrize("name", SHORT)
def test_cloud_requests_succeed_after_a_temporary_fault(
    scheme: str, name: str, place: tuple[str, str], tmp_path: Path
) -> None:
    content = os.urandom(100_000)

    def after(method: str, count: int = 1) -> ObjectStore:
        return faults.enter_context(disturbed(place, First(method, SHORT[name], count)))

    with ExitStack() as faults:
        version = after("PUT").create("k", content)
        assert after("GET", 2).read("k") == (content, version)
        assert list(after("GET", 2).list()) == [Entry("k", len(content))]
        after("GET", 2).download("k", tmp_path / "k")
        assert (tmp_path / "k").read_bytes() == content
        newer = after("PUT").replace("k", b"newer", version)
        assert after("GET").read("k") == (b"newer", newer)
        after("DELETE" if scheme == "gs" else "POST").delete("k")
        assert list(open_store(*place).list()) == []


@BOTH
def test_large_cloud_upload_succeeds_despite_lost_replies(scheme: str, place: tuple[str, str], tmp_path: Path) -> None:
    content = os.urandom(2 * PART + 5)
    (tmp_path / "shard").write_bytes(content)
    for method in ("PUT", "POST"):
        with disturbed(place, First(method, lost_reply, 2)) as store:
            store.upload(tmp_path / "shard", "k")
        assert open_store(*place).read("k")[0] == content


@BOTH
def test_lost_cloud_reply_does_not_hide_a_conflict(scheme: str, place: tuple[str, str]) -> None:
    def another_wins(request: Request, forward: Forward) -> None:
        open_store(*place).write("claim", b"theirs")

    with disturbed(place, First("PUT", another_wins)) as store, pytest.raises(Conflict):
        store.create("claim", b"mine")


@BOTH
@pytest.mark.parametrize("broken", [cut, reset])
def test_cloud_stream_resumes_at_the_break(scheme: str, place: tuple[str, str], broken: Fault) -> None:
    """The stream breaks more often than obstore retries, so the store must resume it."""
    content = os.urandom(3 << 20)
    open_store(*place).write("k", content)
    with disturbed(place, First("GET", broken, count=6)) as store, store.open("k") as stream:
        assert stream.read() == content


@BOTH
def test_cloud_stream_fails_if_the_object_is_overwritten(scheme: str, place: tuple[str, str]) -> None:
    direct = open_store(*place)
    direct.write("k", b"old" * 1000)

    def cut_and_overwrite(request: Request, forward: Forward) -> Reply:
        reply = cut(request, forward)
        direct.write("k", b"new" * 1000)
        return reply

    with (
        disturbed(place, First("GET", cut_and_overwrite)) as store,
        store.open("k") as stream,
        pytest.raises(StoreError, match="k: "),
    ):
        stream.read()


@pytest.mark.parametrize("condition", ["create", "replace"])
def test_probe_refuses_a_gcs_that_ignores_conditions(gcs: str, request: pytest.FixtureRequest, condition: str) -> None:
    """Azure has no such test, because the signature of its requests covers the conditions."""
    place = cloud_store("gs", request)

    def ignore(request: Request, forward: Forward) -> Reply:
        wanted = request.headers.get("x-goog-if-generation-match")
        if wanted and (wanted == "0") == (condition == "create"):
            del request.headers["x-goog-if-generation-match"]
        return forward(request)

    with disturbed(place, ignore) as store, pytest.raises(StoreError, match="two runs could both become champion"):
        probe_conditional_writes(store)
    assert list(open_store(*place).list()) == []


@BOTH
def test_denied_cloud_request_names_the_credentials(scheme: str, place: tuple[str, str]) -> None:
    with disturbed(place, lambda *_: refusal(403, "AccessDenied")) as store:
        for operation in (lambda: list(store.list()), lambda: store.create("k", b""), lambda: store.open("k")):
            with pytest.raises(StoreError, match=r"403 Forbidden: AccessDenied\. Check the credentials.* the role "):
                operation()


@BOTH
def test_website_at_a_cloud_endpoint_is_reported(scheme: str, place: tuple[str, str]) -> None:
    page = b"<html><body/></html>"
    reply = Reply(404, {"Content-Type": "text/html", "Content-Length": str(len(page))}, page)
    refused = pytest.raises(StoreError, match=r"does not come from .*404 Not Found.*endpoint_url")
    with disturbed(place, lambda *_: reply) as store, refused:
        list(store.list())


@BOTH
def test_unreachable_cloud_is_reported_within_a_minute(scheme: str, place: tuple[str, str]) -> None:
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"at http://127\.0\.0\.1:9, k: the server cannot be reached: .*endpoint_url"):
        open_store(place[0], "http://127.0.0.1:9").read("k")
    assert time.monotonic() - started < 60
