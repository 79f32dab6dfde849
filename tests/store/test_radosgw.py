"""Conditional writes and the watcher on a real S3 server, Ceph's gateway."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from support.races import PROCESSES, claim_all, count_up, race
from support.radosgw import KEY
from support.watching import Recorder, on_s3

from retrain.store import Conflict, open_store
from retrain.store.base import probe_conditional_writes
from retrain.store.keys import TaskKeys
from retrain.store.lease import acquire


def test_watcher_works_on_ceph(ceph: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": KEY, "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in (environment | {"NO_PROXY": "127.0.0.1"}).items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=ceph)
    client.create_bucket(Bucket="drops")
    client.close()
    conditions_hold("s3://drops/races", ceph)
    two_watchers_give_one_run(ceph, tmp_path / "in")


def conditions_hold(url: str, endpoint: str) -> None:
    store = open_store(url, endpoint)
    probe_conditional_writes(store)
    won = Counter(claim for winner in race(claim_all, url, endpoint) for claim in winner)
    assert (len(won), max(won.values())) == (20, 1)
    store.write("counter", b"0 0.0")
    race(count_up, url, endpoint)
    data, version = store.read("counter")
    assert data.split()[0] == b"%d" % (20 * PROCESSES)
    store.replace("counter", b"newer", version)
    with pytest.raises(Conflict):
        store.replace("counter", b"stale", version)
    assert acquire(store, TaskKeys("pets").lease)
    assert acquire(store, TaskKeys("pets").lease) is None


def two_watchers_give_one_run(endpoint: str, source: Path) -> None:
    place, submitter = on_s3("drops", endpoint), Recorder()
    for drop in ("a", "b"):
        place.land(source, drop)
    watchers = [place.watcher(submitter) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda watcher: watcher.once(), watchers)) == [True, True]
    assert [watcher.once() for watcher in watchers] == [True, True]
    [run] = submitter.runs
    assert place.owners() == {"a": run, "b": run}
    place.end(run)
    place.land(source, "c")
    assert watchers[0].once()
    assert len(submitter.runs) == 2
