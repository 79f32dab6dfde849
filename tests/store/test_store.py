"""Test `ObjectStore` with a local folder, and with S3, Google Cloud Storage and Azure over HTTP."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.clouds import cloud_store

from retrain.errors import StoreError
from retrain.store import Conflict, Entry, LocalStore, Missing, ObjectStore, open_store
from retrain.store.base import probe_conditional_writes


@pytest.fixture(params=["local", "s3", "gs", "az"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """Return an empty store. Each test runs with every kind of store."""
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    if request.param == "s3":
        return open_store(f"s3://{request.getfixturevalue('bucket')}/some/prefix", request.getfixturevalue("s3"))
    return open_store(*cloud_store(request.param, request))


def test_created_object_is_read_back_with_its_version(store: ObjectStore) -> None:
    version = store.create("task/ledger/r-1.json", b"{}")
    assert store.read("task/ledger/r-1.json") == (b"{}", version)


def test_create_refuses_other_bytes_and_keeps_the_first(store: ObjectStore) -> None:
    store.create("claim", b"mine")
    with pytest.raises(Conflict, match="claim"):
        store.create("claim", b"yours")
    assert store.read("claim")[0] == b"mine"


def test_create_of_the_same_bytes_succeeds_again(store: ObjectStore) -> None:
    assert store.create("claim", b"mine") == store.create("claim", b"mine")


def test_replace_of_the_current_version_succeeds(store: ObjectStore) -> None:
    first = store.create("champion.json", b"1")
    second = store.replace("champion.json", b"2", first)
    assert second != first
    assert store.read("champion.json") == (b"2", second)


def test_replace_refuses_a_stale_version(store: ObjectStore) -> None:
    first = store.create("champion.json", b"1")
    store.replace("champion.json", b"2", first)
    with pytest.raises(Conflict, match=r"champion\.json"):
        store.replace("champion.json", b"3", first)
    assert store.read("champion.json")[0] == b"2"


def test_replace_with_the_stored_bytes_succeeds(store: ObjectStore) -> None:
    first = store.create("champion.json", b"1")
    second = store.replace("champion.json", b"2", first)
    assert store.replace("champion.json", b"2", first) == second


def test_replace_conflicts_with_an_unconditional_write(store: ObjectStore) -> None:
    version = store.create("k", b"1")
    store.write("k", b"2")
    with pytest.raises(Conflict):
        store.replace("k", b"3", version)


@pytest.mark.parametrize("operation", ["read", "open", "replace", "download"])
def test_missing_object_is_reported(store: ObjectStore, operation: str, tmp_path: Path) -> None:
    arguments = {"replace": (b"x", "0" * 32), "download": (tmp_path / "f",)}.get(operation, ())
    with pytest.raises(Missing, match="not/there") as raised:
        getattr(store, operation)("not/there", *arguments)
    assert store.url in str(raised.value)
    assert not (tmp_path / "f").exists()


def test_write_overwrites_an_object(store: ObjectStore) -> None:
    store.write("k", b"old")
    store.write("k", b"new")
    assert store.read("k")[0] == b"new"


def test_delete_accepts_a_missing_object(store: ObjectStore) -> None:
    store.create("k", b"")
    store.delete("k")
    store.delete("k")
    assert list(store.list()) == []
    store.create("k", b"again")


def test_listing_is_in_key_order_with_sizes(store: ObjectStore) -> None:
    keys = ["a/b", "a.txt", "a/b.c/d", "a-1/x", "a/B", "é", "z"]
    for size, key in enumerate(keys):
        store.write(key, b"x" * size)
    assert list(store.list()) == [Entry(key, keys.index(key)) for key in sorted(keys)]


def test_listing_accepts_any_prefix_of_a_key(store: ObjectStore) -> None:
    for key in ("t/drops/d-1/a.tar", "t/drops/d-1/drop.json", "t/drops/d-10/b.tar", "t/ledger/r", "t2/drops/d-1/a"):
        store.write(key, b"")
    assert [entry.key for entry in store.list("t/drops/d-1")] == [
        "t/drops/d-1/a.tar",
        "t/drops/d-1/drop.json",
        "t/drops/d-10/b.tar",
    ]
    assert [entry.key for entry in store.list("t/drops/d-1/")] == ["t/drops/d-1/a.tar", "t/drops/d-1/drop.json"]
    assert list(store.list("t/nothing/")) == []


def test_listing_continues_beyond_one_page(store: ObjectStore) -> None:
    keys = [f"k/{index:03}" for index in range(250)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.write(key, b""), keys))
    assert [entry.key for entry in store.list("k/")] == keys


def test_listing_of_folders_has_one_level(store: ObjectStore) -> None:
    numbered = [f"drops/d-{index:03}" for index in range(120)]  # more than a page
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda folder: store.write(f"t/{folder}/a/b.tar", b""), numbered))
    for key in ("t/drops/plain", "t/drops-2/x", "t/ledger/r"):
        store.write(key, b"")
    assert [f"drops/{name}" for name in store.folders("t/drops/")] == numbered
    assert list(store.folders("t/")) == ["drops-2", "drops", "ledger"]
    assert list(store.folders("t/nothing/")) == []


def test_uploaded_large_file_is_downloaded_unchanged(store: ObjectStore, tmp_path: Path) -> None:
    content = os.urandom(17 << 20)  # boto3 uploads it in three parts
    (tmp_path / "up").write_bytes(content)
    store.upload(tmp_path / "up", "t/shard.tar")
    store.download("t/shard.tar", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == content
    assert [entry.size for entry in store.list()] == [17 << 20]
    with store.open("t/shard.tar") as stream:
        assert hashlib.file_digest(stream, "sha256").digest() == hashlib.sha256(content).digest()


def test_upload_and_download_replace_existing_content(store: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"first", b"second"):
        path.write_bytes(content)
        store.upload(path, "k")
    path.write_bytes(b"something else")
    store.download("k", path)
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith("file")] == ["file"]


def test_stream_read_continues_at_its_position(store: ObjectStore) -> None:
    store.write("k", bytes(range(100)))
    with store.open("k") as stream:
        assert stream.read(10) == bytes(range(10))
        assert stream.read() == bytes(range(10, 100))
        assert stream.read() == b""


@pytest.mark.parametrize("key", ["", "/etc/x", "../x", "a/../../x", "a//b", "a/", "./a", "a\0b", ".retrain/lock"])
def test_keys_outside_the_store_are_refused(store: ObjectStore, key: str) -> None:
    with pytest.raises(StoreError, match="is not a key"):
        store.write(key, b"")
    with pytest.raises(StoreError, match="is not a key"):
        store.read(key)


def test_one_of_many_creating_threads_wins(store: ObjectStore) -> None:
    def claim(name: int) -> bool:
        try:
            store.create("claim", b"%d" % name)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(claim, range(32))) == 1


def test_conditional_write_probe_leaves_no_objects(store: ObjectStore) -> None:
    probe_conditional_writes(store)
    assert list(store.list()) == []


@pytest.mark.parametrize("url", ["adl://bucket/x", "gs:///x", "http://host/x", "s3://", "s3:///prefix"])
def test_error_on_an_unknown_store_address_lists_allowed_ones(url: str) -> None:
    with pytest.raises(StoreError, match="s3://bucket/prefix"):
        open_store(url)


@pytest.mark.parametrize(
    "address", ["s3:/bucket/prefix", "s3:bucket", "gs:bucket", "az:/container/x", "~no-such-user/store"]
)
def test_malformed_store_address_is_refused(address: str) -> None:
    with pytest.raises(StoreError, match="store: "):
        open_store(address)


def test_range_of_an_object_is_read(store: ObjectStore) -> None:
    store.write("k", b"0123456789")
    assert (store.read_range("k", 2, 3), store.read_range("k", 8, 5), store.read_range("k", 4, 0)) == (
        b"234",
        b"89",
        b"",
    )
    with pytest.raises(Missing):
        store.read_range("gone", 0, 1)
