"""What is particular to Google Cloud Storage and Azure: races over HTTP, failing servers, and messages."""

import subprocess
import sys
from urllib.request import Request, urlopen

import pytest
from support.clouds import cloud_store
from support.races import PROCESSES, claim_all, count_up, race

from retrain.errors import StoreError
from retrain.store import open_store

BOTH = pytest.mark.parametrize("scheme", ["gs", "az"])


@pytest.fixture
def place(scheme: str, request: pytest.FixtureRequest) -> tuple[str, str]:
    """The address of an empty store, and that of its server."""
    return cloud_store(scheme, request)


@BOTH
def test_claims_of_racing_processes_have_one_winner(scheme: str, place: tuple[str, str]) -> None:
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
    store, whole = open_store(f"{bucket}/team/models/", server), open_store(bucket, server)
    assert store.url == f"{bucket}/team/models"
    store.write("t/champion.json", b"")
    for foreign in ("team/models-2/x", "other"):
        whole.write(foreign, b"")
    assert [entry.key for entry in store.list()] == ["t/champion.json"]
    assert [entry.key for entry in whole.list()] == ["other", "team/models-2/x", "team/models/t/champion.json"]
    assert list(whole.folders("")) == ["team"]


def test_folder_marker_in_gcs_is_unusual(gcs: str, request: pytest.FixtureRequest) -> None:
    """Google's console makes one, of no bytes, when a person makes a folder."""
    url, server = cloud_store("gs", request)
    bucket = url.removeprefix("gs://").partition("/")[0]
    urlopen(Request(f"{server}/{bucket}/some/prefix/t/empty/", method="PUT")).close()
    store = open_store(url, server)
    store.write("t/_SUCCESS", b"")
    assert [entry.key for entry in store.list("t/")] == ["t/_SUCCESS"]
    assert [(entry.key, entry.size) for entry in store.list_unusual("t/")] == [("t/empty/", 0)]


def test_impossible_name_in_gcs_is_reported(gcs: str, request: pytest.FixtureRequest) -> None:
    url, server = cloud_store("gs", request)
    bucket = url.removeprefix("gs://").partition("/")[0]
    urlopen(Request(f"{server}/{bucket}/some/prefix/t/a//b", method="PUT")).close()
    with pytest.raises(StoreError, match=r"t/a//b.*remove it, or upload it under another name"):
        list(open_store(url, server).list("t/"))


@BOTH
def test_missing_bucket_in_a_cloud_is_reported(scheme: str, place: tuple[str, str]) -> None:
    absent = open_store(f"{scheme}://no-such-bucket-here/t", place[1])
    for operation in (lambda: list(absent.list()), lambda: absent.create("k", b""), lambda: absent.open("k")):
        with pytest.raises(StoreError, match="container does not exist") as raised:
            operation()
        assert f"{scheme}://no-such-bucket-here/t at {place[1]}" in str(raised.value)


def test_wrong_azure_key_is_reported(azure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc=")
    with pytest.raises(StoreError, match=r"403.*Check the credentials: AZURE_STORAGE_ACCOUNT_KEY"):
        open_store("az://models/t", azure).read("k")


def test_unnamed_azure_account_is_reported(azure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    with pytest.raises(StoreError, match="Set AZURE_STORAGE_ACCOUNT_NAME"):
        open_store("az://models/t", azure)


@pytest.mark.parametrize(("address", "extra"), [("gs://models/t", "gcs"), ("az://models/t", "azure")])
def test_store_without_its_extra_names_it(address: str, extra: str) -> None:
    program = (
        f"import sys; sys.modules['obstore'] = None; from retrain.store import open_store; open_store({address!r})"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert f"needs obstore: pip install 'retrain-classifiers[{extra}]'" in ended.stderr
