"""Fixtures that several test modules use, and the pytest marks that `make test-fast` uses."""

import gc
import inspect
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from uuid import uuid4

import boto3
import pytest
from support import radosgw
from support.clouds import AZURE, GCS, serving_azure, serving_gcs
from support.programs import AWS
from support.s3_server import serving_s3

from retrain.store import LocalStore, ObjectStore, open_store
from retrain.utils import processes

SERVERS = {"s3", "bucket", "gcs", "azure", "kfp", "ceph"}
"""Fixtures that run object servers or a simulated Kubeflow."""
SERVED = ("s3", "gs", "az", "server")
"""Test parameters that select a server of a store or of MLflow."""

INTEGRATION = {
    "cli/test_secrets.py",
    "doctor/test_doctor.py",
    "experiments/test_study_kubeflow.py",
    "kubeflow/test_client.py",
    "kubeflow/test_definition.py",
    "kubeflow/test_local.py",
    "kubeflow/test_submission.py",
    "kubeflow/test_trainjob.py",
    "monitoring/test_alerts.py",
    "monitoring/test_dashboards.py",
    "monitoring/test_exporter.py",
    "monitoring/test_fleet.py",
    "monitoring/test_report.py",
    "monitoring/test_totals.py",
    "records/test_hostile_names.py",
    "repository/test_chart.py",
    "repository/test_chart_values.py",
    "repository/test_manifests.py",
    "repository/test_slim.py",
    "repository/test_tutorial.py",
    "serving/test_kserve.py",
    "serving/test_serve.py",
    "store/test_cloud_store.py",
    "store/test_damaged_records.py",
    "store/test_policies.py",
    "store/test_radosgw.py",
    "store/test_s3_store.py",
    "store/test_s3_transfers.py",
    "store/test_store_faults.py",
    "training/test_compiling.py",
    "watcher/test_receiver.py",
    "watcher/test_watcher.py",
    "watcher/test_watchers_apart.py",
}
"""Files whose tests need a server or a program."""

SLOW = {
    "cli/test_start_up.py",
    "cli/test_output.py",
    "cli/test_watch_command.py",
    "data/test_stream_memory.py",
    "data/test_stream_resume.py",
    "experiments/test_study.py",
    "experiments/test_paper_headline.py",
    "experiments/test_paper_settings.py",
    "experiments/test_study_killed.py",
    "experiments/test_study_papers.py",
    "experiments/test_study_splits.py",
    "export/test_export.py",
    "kubeflow/test_launch.py",
    "models/test_onednn_bugs.py",
    "records/test_fuzz.py",
    "records/test_many_classes.py",
    "repository/test_chaos.py",
    "repository/test_benchmarks.py",
    "repository/test_release.py",
    "repository/test_site.py",
    "repository/test_slim.py",
    "repository/test_slim_image.py",
    "store/test_local_store.py",
    "store/test_locks.py",
    "store/test_stateful.py",
    "training/test_distributed.py",
    "pipeline/test_drift.py",
    "pipeline/test_retention.py",
    "training/test_memory.py",
    "training/test_resume.py",
    "utils/test_available_cores.py",
    "watcher/test_validations.py",
}
"""Files whose tests train for a long time, start processes, or try many random inputs."""

LONG = (
    *("store/test_policies.py", "store/test_radosgw.py", "watcher/test_receiver.py"),  # they share one Ceph server
    *("repository/test_tutorial.py", "experiments/test_paper_headline.py", "kubeflow/test_local.py"),
    *("tracking/test_trackers.py", "serving/test_kserve.py"),
    *("kubeflow/test_trainjob.py", "kubeflow/test_launch.py", "monitoring/test_totals.py", "cli/test_secrets.py"),
    *("repository/test_chaos.py", "records/test_many_classes.py", "monitoring/test_dashboards.py"),
    *("repository/test_site.py", "repository/test_release.py", "watcher/test_watchers_apart.py"),
)
"""Files with the longest tests. These tests start first, because a long test that starts last delays the end."""
LONG_SECONDS = 900
"""Time limit for a test of a file in `LONG`, in seconds."""


MEMORY, ROOM = Path("/dev/shm"), 4 * 2**30
"""Linux's folder of files in memory. The tests use it if it has `ROOM` free bytes. Creating a file in it takes a tenth
of the processor time of creating a file on a disk, and no write waits for a disk."""


gc.disable()  # until all tests are collected


def pytest_collection_finish() -> None:
    """Exclude the modules of all tests, a million objects, from garbage collection."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Undo `gc.freeze` at the very end, after pytest has collected its garbage."""
    config.add_cleanup(gc.unfreeze)


def pytest_sessionstart() -> None:
    """Restore SIGINT and SIGTERM for this process and its subprocesses. A shell's background jobs ignore them.

    Put the tests' temporary files into `MEMORY` if it has `ROOM`.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their file or by their fixtures, and run the longest tests first."""
    items.sort(key=_rank)
    for item in items:
        file = _file_of(item)
        parameters = getattr(item, "callspec", None)
        served = parameters is not None and any(kind in parameters.params.values() for kind in SERVED)
        if file in INTEGRATION or served or SERVERS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)
        if file in SLOW:
            item.add_marker(pytest.mark.slow)
        if file in LONG:
            item.add_marker(pytest.mark.timeout(LONG_SECONDS))


def _file_of(item: pytest.Item) -> str:
    return str(item.path.relative_to(Path(__file__).parent))


def _rank(item: pytest.Item) -> int:
    """Return the rank of a test's file: longest first, then tests with processes and servers, then all others."""
    file = _file_of(item)
    if file in LONG:
        return LONG.index(file)
    return len(LONG) + (file not in SLOW and file not in INTEGRATION)


@pytest.fixture(autouse=True, scope="session")
def _stacks_without_source() -> Iterator[None]:
    """Make kfp compile each pipeline half a second faster.

    kfp asks `inspect.stack` for the name of its caller. Without this fixture, the call reads the source of every frame.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(inspect, "stack", partial(inspect.stack, 0))
        yield


def _address_of(server: AbstractContextManager[str], variables: Mapping[str, str]) -> Iterator[str]:
    """Yield the address of a server. Meanwhile, environment variables direct clients to it."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in variables.items():
            environment.setenv(name, value)
        with server as address:
            yield address


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Yield the address of an S3 server on loopback, over real HTTP."""
    yield from _address_of(serving_s3(), AWS)


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of Ceph's gateway.

    It takes ten seconds to start, so tests share it and use separate buckets.
    """
    with radosgw.serving(tmp_path_factory.mktemp("ceph")) as address:
        yield address


@pytest.fixture
def bucket(s3: str) -> str:
    """Return a new, empty bucket."""
    name = f"test-{uuid4().hex}"
    client = boto3.client("s3", endpoint_url=s3)
    client.create_bucket(Bucket=name)
    client.close()
    return name


@pytest.fixture(scope="session")
def gcs() -> Iterator[str]:
    """Yield the address of a server of Google Cloud Storage on loopback, with obstore's environment for it."""
    yield from _address_of(serving_gcs(), GCS)


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of an account in Azurite, with obstore's environment for it."""
    yield from _address_of(serving_azure(tmp_path_factory.mktemp("azurite")), AZURE)


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """Return an empty store, once in a folder and once in S3."""
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    return open_store(f"s3://{request.getfixturevalue('bucket')}/some/prefix", request.getfixturevalue("s3"))


@pytest.fixture(autouse=True)
def _no_given_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the task files that earlier tests in this process read, because messages name such files."""
    monkeypatch.setattr("retrain.config.loading._GIVEN", {})


@pytest.fixture(autouse=True)
def _preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `run_in_subprocess` start processes that have already imported torch and kfp. These imports take seconds."""
    from support.processes import Preloaded  # imports torch

    monkeypatch.setattr(processes, "SPAWN", Preloaded())
