"""Submit to Kubeflow Pipelines over HTTP, with KFP's own Python client."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.kfp_server import NO_IDENTITY, NO_PERMISSION_TO_UPLOAD, NO_TOKEN, PAGE, TOO_LONG, KfpServer, serving

from retrain.cli.pipeline import build_pipeline
from retrain.config.resources import Kubeflow, Resources
from retrain.config.task import Task
from retrain.errors import SubmitError
from retrain.kubeflow.client import Submitted, reach, register, schedule, submit_by_name
from retrain.kubeflow.records import Registered


@pytest.fixture
def kfp(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        yield server


def task(kfp: KfpServer, **fields: object) -> Task:
    return Task(name="pets", store="s3://bucket/prefix", kubeflow=Kubeflow(host=kfp.url), **fields)


def parameters(item: dict[str, Any]) -> dict[str, Any]:
    return item["runtime_config"]["parameters"]


def test_kubeflow_run_is_named_after_its_plan_and_task(kfp: KfpServer) -> None:
    submitted = submit_by_name(
        task(kfp, resources=Resources(service_account="trainer")), "continuous-1", build_pipeline
    )
    [experiment], [run] = kfp.experiments, kfp.runs
    assert submitted == Submitted(run["run_id"], "PENDING", new=True)
    assert experiment["display_name"] == "pets"
    assert run["experiment_id"] == experiment["experiment_id"]
    assert run["display_name"] == "continuous-1"
    assert run["service_account"] == "trainer"
    assert parameters(run)["submission"] == "continuous-1"
    assert parameters(run)["task"]["store"] == "s3://bucket/prefix"
    assert run["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "retrain-pets"


def test_run_that_was_submitted_is_found_again_by_its_name(kfp: KfpServer) -> None:
    first = submit_by_name(task(kfp), "continuous-1", build_pipeline)
    assert submit_by_name(task(kfp), "continuous-1", build_pipeline) == first._replace(new=False)
    assert submit_by_name(task(kfp), "continuous-2", build_pipeline).new
    assert kfp.names == ["continuous-1", "continuous-2"]


def test_run_whose_reply_was_lost_is_not_submitted_again(kfp: KfpServer) -> None:
    submit_by_name(task(kfp), "continuous-1", build_pipeline)
    kfp.lose_reply = True
    with pytest.raises(SubmitError, match=f"{kfp.url}: cannot be reached: .*Check kubeflow.host or --host"):
        submit_by_name(task(kfp), "continuous-2", build_pipeline)
    assert not submit_by_name(task(kfp), "continuous-2", build_pipeline).new
    assert kfp.names == ["continuous-1", "continuous-2"]


def test_racing_submitters_all_find_the_first_unfinished_run(
    kfp: KfpServer,
) -> None:
    others: list[Submitted] = []
    kfp.meanwhile["runs"] = lambda: others.append(submit_by_name(task(kfp), "continuous-1", build_pipeline))
    late = submit_by_name(task(kfp), "continuous-1", build_pipeline)
    [first] = others
    assert first.new
    assert late == first._replace(new=False)
    assert kfp.names == ["continuous-1"] * 2
    kfp.runs[0]["state"] = "FAILED"
    assert submit_by_name(task(kfp), "continuous-1", build_pipeline).id == kfp.runs[1]["run_id"]
    kfp.runs[1]["state"] = "SUCCEEDED"
    assert submit_by_name(task(kfp), "continuous-1", build_pipeline).id == first.id


def test_lowest_id_wins_among_runs_of_the_same_second(kfp: KfpServer) -> None:
    kfp.tick = timedelta()
    for _ in range(2):
        kfp.meanwhile["runs"] = lambda: submit_by_name(task(kfp), "continuous-1", build_pipeline)
        submit_by_name(task(kfp), "continuous-1", build_pipeline)
        found = {submit_by_name(task(kfp), "continuous-1", build_pipeline).id for _ in range(2)}
        assert found == {min(run["run_id"] for run in kfp.runs)}
        kfp.runs.clear()


def test_experiment_name_and_namespace_can_be_set(kfp: KfpServer) -> None:
    named = Kubeflow(host=kfp.url, experiment="vision", namespace="team")
    submit_by_name(Task(name="pets", kubeflow=named), "continuous-1", build_pipeline)
    [experiment] = kfp.experiments
    assert (experiment["display_name"], experiment["namespace"]) == ("vision", "team")


@pytest.mark.parametrize("name", ["C++ vision", "60% of it", "étoile ★", "a/b 'c' \"d\" &e=f"])
def test_experiment_with_special_characters_is_found_again(kfp: KfpServer, name: str) -> None:
    named = Task(name="pets", kubeflow=Kubeflow(host=kfp.url, experiment=name))
    submit_by_name(named, "continuous-1", build_pipeline)
    submit_by_name(named, "continuous-2", build_pipeline)
    assert [each["display_name"] for each in kfp.experiments] == [name]


def test_racing_first_submissions_share_one_experiment(kfp: KfpServer) -> None:
    kfp.meanwhile["experiments"] = lambda: submit_by_name(task(kfp), "continuous-1", build_pipeline)
    submit_by_name(task(kfp), "continuous-2", build_pipeline)
    [experiment] = kfp.experiments
    assert {run["experiment_id"] for run in kfp.runs} == {experiment["experiment_id"]}


def test_new_schedule_replaces_the_previous_one(kfp: KfpServer) -> None:
    schedule(task(kfp, schedule="0 2 * * *"), build_pipeline)
    identity = schedule(task(kfp, schedule="30 4 * * 1"), build_pipeline)
    [recurring] = kfp.recurringruns
    assert recurring["recurring_run_id"] == identity
    assert recurring["trigger"] == {"cron_schedule": {"cron": "0 30 4 * * 1"}}
    assert (recurring["max_concurrency"], recurring["no_catchup"], recurring["mode"]) == (1, True, "ENABLE")
    assert parameters(recurring)["submission"] == ""


def test_registered_pipeline_gets_a_version_for_each_change(kfp: KfpServer) -> None:
    first = register(task(kfp), build_pipeline)
    assert first == Registered("retrain-pets", first.version, new=True)
    assert register(task(kfp), build_pipeline) == first._replace(new=False)
    changed = register(task(kfp, seed=1), build_pipeline)
    assert changed.new
    assert changed.version != first.version
    [pipeline] = kfp.pipelines
    assert pipeline["display_name"] == "retrain-pets"
    assert [each["display_name"] for each in kfp.versions] == [first.version, changed.version]
    assert {each["pipeline_id"] for each in kfp.versions} == {pipeline["pipeline_id"]}
    assert "name: retrain-pets" in kfp.versions[-1]["package"]


@pytest.mark.parametrize("end", ["pipelines", "upload_version"])
def test_pipeline_registered_by_two_processes_exists_once(kfp: KfpServer, end: str) -> None:
    others: list[Registered] = []
    kfp.meanwhile[end] = lambda: others.append(register(task(kfp), build_pipeline))
    late = register(task(kfp), build_pipeline)
    [first] = others
    assert first.new
    assert late == first._replace(new=False)
    assert (len(kfp.pipelines), len(kfp.versions)) == (1, 1)


def test_pipeline_that_was_renamed_in_the_ui_is_found_again(kfp: KfpServer) -> None:
    first = register(task(kfp), build_pipeline)
    kfp.pipelines[0]["display_name"] = "Pets of the shelter"
    assert register(task(kfp), build_pipeline) == first._replace(new=False)


def test_another_kubeflow_address_adds_no_pipeline_version(kfp: KfpServer) -> None:
    first = register(task(kfp), build_pipeline)
    elsewhere = Task(name="pets", store="s3://bucket/prefix", kubeflow=Kubeflow(host=f"{kfp.url}/"))
    assert register(elsewhere, build_pipeline) == first._replace(new=False)


def test_client_outside_a_cluster_uses_a_given_token(kfp: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    submit_by_name(task(kfp), "continuous-1", build_pipeline)
    assert set(kfp.tokens) == {None}
    kfp.tokens.clear()
    monkeypatch.setenv("RETRAIN_KUBEFLOW_TOKEN", "secret")
    submit_by_name(task(kfp), "continuous-1", build_pipeline)
    assert set(kfp.tokens) == {"Bearer secret"}


def test_client_uses_a_rotated_service_account_token(
    kfp: KfpServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(token))
    for text in ("old", "rotated"):
        token.write_text(text)
        kfp.tokens.clear()
        submit_by_name(task(kfp), "continuous-1", build_pipeline)
        assert set(kfp.tokens) == {f"Bearer {text}"}


def test_missing_kubeflow_address_is_an_error() -> None:
    with pytest.raises(SubmitError, match=r"pass --host or set kubeflow\.host in the task"):
        submit_by_name(Task(name="pets"), "continuous-1", build_pipeline)


def test_kubeflow_refusal_is_reported(kfp: KfpServer) -> None:
    with pytest.raises(SubmitError, match=r"refused the request with 404 Not Found: 404 page not found$"):
        submit_by_name(Task(name="pets", kubeflow=Kubeflow(host=f"{kfp.url}/elsewhere")), "x", build_pipeline)


@pytest.mark.parametrize("namespace", [None, "team"])
def test_website_at_kubeflows_address_is_reported(kfp: KfpServer, namespace: str | None) -> None:
    """KFP's client reads a web page as an empty reply, so without this check a submission would seem to succeed."""
    kfp.refuses[""] = PAGE
    with pytest.raises(SubmitError, match=f"{kfp.url}: this is not the address of the API of Kubeflow Pipelines"):
        reach(Kubeflow(host=kfp.url, namespace=namespace))


def test_refused_upload_names_the_missing_permission(kfp: KfpServer) -> None:
    kfp.refuses["upload_version"] = NO_PERMISSION_TO_UPLOAD
    with pytest.raises(SubmitError, match=r"pipeline version\. The permission to create `pipelines` may be missing$"):
        register(task(kfp), build_pipeline)


def test_server_error_is_reported_with_its_cause(kfp: KfpServer) -> None:
    kfp.refuses["experiments"] = TOO_LONG
    with pytest.raises(SubmitError, match=r"Experiment\.Name length cannot exceed 128$"):
        submit_by_name(task(kfp), "continuous-1", build_pipeline)


def test_request_refused_without_a_token_names_the_remedy(kfp: KfpServer) -> None:
    kfp.refuses["experiments"] = NO_TOKEN
    with pytest.raises(SubmitError) as refusal:
        submit_by_name(task(kfp), "continuous-1", build_pipeline)
    assert str(refusal.value) == (
        f"{kfp.url}: refused the request with 401 Unauthorized: {NO_IDENTITY}. Set RETRAIN_KUBEFLOW_TOKEN, for example "
        "to what `kubectl create token ACCOUNT --audience pipelines.kubeflow.org` prints"
    )
