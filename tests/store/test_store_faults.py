"""While the store fails, a retraining gives the same result as without faults, or an error that names the cause."""

from pathlib import Path

import pytest
from chaos.audit import Expected, audit, digests, is_record
from support.clouds import cloud_store, disturbed
from support.faulty_s3 import faulty
from support.store_faults import LASTING, PASSING, Sometimes, every, starting_at
from support.workspaces import Workspace, make_task

from retrain.errors import StoreError
from retrain.pipeline import stages
from retrain.pipeline.planning import Request
from retrain.records import RunRecord
from retrain.store import LocalStore, open_store

TASK = make_task()


def retrain_twice(workspace: Workspace) -> None:
    """Add a drop and retrain on it, twice."""
    for seed in (0, 1):
        workspace.pack(0, 1, 2, seed=seed)
        stages.run_task(workspace.context, TASK, Request())


def objects(workspace: Workspace) -> dict[str, bytes]:
    return {key.removeprefix("pets/"): data for key, data in workspace.contents().items()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Expected:
    """Return the result of the same history without faults."""
    folder = tmp_path_factory.mktemp("undisturbed")
    workspace = Workspace(LocalStore(folder / "store"), folder / "work")
    retrain_twice(workspace)
    left = objects(workspace)
    records = [RunRecord.model_validate_json(data) for key, data in left.items() if is_record(key)]
    return Expected(
        drops={drop: "committed" for record in records for drop in record.drops},
        runs={record.run_id: digests(left, record.run_id) for record in records},
        saved=sum(record.savings.gross for record in records if record.savings),
    )


@pytest.mark.parametrize("name", PASSING)
def test_task_recovers_from_temporary_store_faults(
    s3: str, bucket: str, tmp_path: Path, expected: Expected, name: str
) -> None:
    fault = every(11, PASSING[name])
    with faulty(s3, fault) as endpoint:
        retrain_twice(Workspace(open_store(f"s3://{bucket}/some/prefix", endpoint), tmp_path))
    left = objects(Workspace(open_store(f"s3://{bucket}/some/prefix", s3), tmp_path))
    assert fault.requests > 80
    assert audit(left, expected) == []


ADVICE = {
    "expired": r"the credentials have expired \(ExpiredToken\)\. Renew them",
    "skewed": "Set this machine's clock",
    "unavailable": "ServiceUnavailable",
    "lost_request": "the server cannot be reached",
}


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_task_recovers_from_temporary_faults_of_a_cloud(
    scheme: str, request: pytest.FixtureRequest, tmp_path: Path, expected: Expected
) -> None:
    """All faults occur except the truncated body. These services send no checksum that could detect it."""
    place = cloud_store(scheme, request)
    faults = Sometimes({name: fault for name, fault in PASSING.items() if name != "truncated"}, share=0.1, seed=1)
    with disturbed(place, faults) as store:
        retrain_twice(Workspace(store, tmp_path))
    assert len(faults.struck) > 5
    assert audit(objects(Workspace(open_store(*place), tmp_path)), expected) == []


@pytest.mark.parametrize(
    ("scheme", "name", "advice"),
    [("gs", "unavailable", "ServiceUnavailable"), ("az", "lost_request", "the server's reply is broken")],
)
def test_task_stops_on_permanent_faults_of_a_cloud(
    request: pytest.FixtureRequest, tmp_path: Path, expected: Expected, scheme: str, name: str, advice: str
) -> None:
    place = cloud_store(scheme, request)
    with (
        disturbed(place, starting_at(40, LASTING[name])) as store,
        pytest.raises(StoreError, match=advice) as raised,
    ):
        retrain_twice(Workspace(store, tmp_path))
    assert place[0] in str(raised.value)
    healthy = Workspace(open_store(*place), tmp_path)
    retrain_twice(healthy)
    assert audit(objects(healthy), expected) == []


@pytest.mark.parametrize("name", LASTING)
@pytest.mark.parametrize("first", [4, 40])
def test_task_stops_on_permanent_store_faults_and_resumes_later(
    s3: str, bucket: str, tmp_path: Path, expected: Expected, name: str, first: int
) -> None:
    url = f"s3://{bucket}/some/prefix"
    with (
        faulty(s3, starting_at(first, LASTING[name])) as endpoint,
        pytest.raises(StoreError, match=ADVICE[name]) as raised,
    ):
        retrain_twice(Workspace(open_store(url, endpoint), tmp_path))
    assert url in str(raised.value)
    healthy = Workspace(open_store(url, s3), tmp_path)
    left = objects(healthy)
    nothing_expected = Expected(drops={}, runs={}, saved=0)
    assert [finding for finding in audit(left, nothing_expected) if finding.kind == "torn"] == []
    retrain_twice(healthy)
    assert audit(objects(healthy), expected) == []
