"""The IAM policies of k8s/examples/aws on a server that enforces them, Ceph's gateway.

Each component can do all of its work under its own policy, and every other request is refused.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import boto3
import pytest
from support.pictures import two_classes
from support.radosgw import KEY, create_user
from support.rendered import ROOT
from support.watching import Recorder
from support.workspaces import Workspace, make_task

from retrain.config.task import Task, Training
from retrain.inference.loading import Source
from retrain.kubeflow import submission
from retrain.kubeflow.records import Submission
from retrain.monitoring import pages
from retrain.monitoring.exporter import Exporter, WatchedTask
from retrain.pipeline import retention, stages
from retrain.pipeline.planning import Request
from retrain.records import Plan
from retrain.serving.champion import FollowedChampion
from retrain.serving.counts import Counts
from retrain.store import ObjectStore, open_store
from retrain.store.base import probe_conditional_writes
from retrain.store.keys import TaskKeys
from retrain.store.s3.errors import Denied
from retrain.store.task_store import TaskStore
from retrain.utils.clock import utc_now
from retrain.utils.parallel import map_ahead
from retrain.watcher.health import Health
from retrain.watcher.task_watch import TaskWatch
from retrain.watcher.watcher import Watcher

AWS = ROOT / "k8s" / "examples" / "aws"
ROLES = ("producer", "watcher", "training", "exporter", "serving", "gc")
STORE = "s3://retrain-example/models"
PETS, CARS = TaskKeys("pets"), TaskKeys("cars")

SHARD, IMAGE, MANIFEST = CARS.drop_file("d", "train-0.tar"), CARS.drop_file("d", "car/1.png"), CARS.manifest("d")
QUARANTINE, SUCCESS, CLAIM = CARS.quarantine("d"), CARS.success("d"), CARS.claim("d")
DROP = {SHARD, IMAGE, MANIFEST, QUARANTINE, SUCCESS}
PLAN, DECISION, RESULT = (CARS.run("r", f"{name}.json") for name in ("plan", "decision", "result"))
MODEL, STATE, SPEEDS = CARS.run("r", "model.safetensors"), CARS.run("r", "state/1"), CARS.learning_speed("r", "d")
REMOVED = CARS.run("r", "removed.json")
RUN = {PLAN, DECISION, RESULT, MODEL, STATE, SPEEDS, REMOVED}
SUBMISSION, LEASE, CHAMPION, PROBE = CARS.submission("s"), CARS.lease, CARS.champion, "probe-1"
LEDGER = {CARS.record("r")}
APPROVAL, NOTIFIED = CARS.approval("r"), CARS.notifications("hook") + "run-r.json"
DRIFT, ERASURE = CARS.drift("r", "d"), CARS.erasure(1)
VALIDATIONS, VALIDATING = CARS.validations("d"), CARS.validating("d").lease
ALL = {
    *{*DROP, *RUN, *LEDGER, APPROVAL, DRIFT, ERASURE, NOTIFIED, CLAIM},
    *{VALIDATIONS, VALIDATING, SUBMISSION, LEASE, CHAMPION, PROBE},
}

MAY_READ = {
    "producer": DROP,
    "watcher": ALL,
    "training": ALL,
    "exporter": {MANIFEST, QUARANTINE, CLAIM, CHAMPION, APPROVAL, DRIFT, ERASURE, *RUN, *LEDGER},
    "serving": {CHAMPION, PLAN, RESULT, MODEL},
    "gc": {MANIFEST, QUARANTINE, CLAIM, APPROVAL, PLAN, DECISION, RESULT, REMOVED, CHAMPION, LEASE, *LEDGER},
}
MAY_WRITE = {
    "producer": DROP,
    "watcher": {
        *{SHARD, MANIFEST, QUARANTINE, CLAIM, VALIDATIONS, VALIDATING, PLAN, DECISION, SUBMISSION, LEASE, PROBE},
        *{APPROVAL, DRIFT, NOTIFIED, *LEDGER},
    },
    "training": {
        *RUN,
        *LEDGER,
        APPROVAL,
        DRIFT,
        QUARANTINE,
        SUBMISSION,
        CHAMPION,
        LEASE,
        PROBE,
    },  # the policy's `*` matches VALIDATING in AWS, but not in Ceph
    "exporter": set[str](),
    "serving": set[str](),
    "gc": {REMOVED, LEASE},  # the policy's `*` matches VALIDATING in AWS, but not in Ceph
}
MAY_DELETE = {
    "producer": set[str](),
    "watcher": {CLAIM, VALIDATIONS, VALIDATING, STATE, PROBE},
    "training": {CLAIM, STATE, PROBE},
    "exporter": set[str](),
    "serving": set[str](),
    "gc": {SHARD, CLAIM, MODEL, STATE, SPEEDS, DECISION, RESULT, REMOVED},
}
MAY_LIST = {
    "producer": {CARS.drops},
    "watcher": {"", CARS.drops, CARS.ledger},
    "training": {"", CARS.drops, CARS.ledger},
    "exporter": {"", CARS.drops, CARS.ledger},
    "serving": {CHAMPION},
    "gc": {"", CARS.drops, CARS.ledger},
}


class Cloud:
    """A bucket and its roles. Each client uses one of the roles."""

    def __init__(self, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.endpoint, self._monkeypatch = endpoint, monkeypatch
        self.admin = self.store(KEY)
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="retrain-example")
        client.close()
        self._set_policy(KEY, [{"Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::*"}])
        for role in ROLES:
            statements = json.loads((AWS / f"policy-{role}.json").read_text())["Statement"]
            self._set_policy(role, [one for one in statements if ":sqs:" not in one["Resource"]])

    def _set_policy(self, user: str, statements: list[dict[str, object]]) -> None:
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        iam = boto3.client("iam", endpoint_url=self.endpoint)
        iam.put_user_policy(UserName=user, PolicyName="permissions", PolicyDocument=document)
        iam.close()

    def use_role(self, role: str) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            self._monkeypatch.setenv(name, role)

    def store(self, role: str, url: str = STORE) -> ObjectStore:
        self.use_role(role)
        return open_store(url, self.endpoint)


def test_policies_allow_each_component_only_its_work(
    ceph: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "127.0.0.1", "AWS_CONFIG_FILE": "/dev/null"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for role in ROLES:
        create_user(ceph, role)
    cloud = Cloud(ceph, monkeypatch)
    task = make_task(store=STORE, endpoint_url=ceph, training=SAVING)
    run_under_policies(cloud, task, tmp_path)
    for role in ROLES:
        assert_nothing_else_is_allowed(cloud, role)


SAVING = Training.model_validate(make_task().training.model_dump() | {"save_seconds": 0})


def run_under_policies(cloud: Cloud, task: Task, folder: Path) -> None:
    """Train on two drops, and record a failed run. Each component uses its role."""
    for round_, classes in enumerate(((0, 1), (1, 2))):
        Workspace(cloud.store("producer"), folder / str(round_)).pack(*classes, seed=round_)
        [run_id] = start_runs(cloud, task)
        champion = run_training(cloud, task, run_id, folder / "training")
        read_metrics_and_predict(cloud, task)
    upload_with_success(cloud, folder / "tree")
    [unfinished] = start_runs(cloud, task)
    stages.record_failure(
        workspace(cloud, "watcher", folder).context, plan_of(cloud, unfinished), "the pipeline is gone"
    )
    assert TaskStore(cloud.admin, "pets").champion.read().run_id == champion
    with TaskStore(cloud.store("gc"), "pets").lock() as locked:
        found = retention.plan_removal(locked, 0, timedelta(0), utc_now())
        assert retention.remove(locked, found, utc_now()).removals == found.removals


def workspace(cloud: Cloud, role: str, folder: Path) -> Workspace:
    return Workspace(cloud.store(role), folder)


def plan_of(cloud: Cloud, run_id: str) -> Plan:
    return Plan.model_validate_json(cloud.admin.read(PETS.run(run_id, "plan.json"))[0])


def upload_with_success(cloud: Cloud, folder: Path) -> None:
    store = cloud.store("producer")
    for path in two_classes(folder).rglob("*.png"):
        store.upload(path, PETS.drop_file("tree", str(path.relative_to(folder))))
    store.write(PETS.success("tree"), b"")


def start_runs(cloud: Cloud, task: Task) -> list[str]:
    """Let the watcher start runs on new drops. Return the ids of these runs."""
    probe_conditional_writes(cloud.store("watcher"))
    submitter, health = Recorder(), Health([task.name])
    watcher = Watcher([TaskWatch(task, submitter, health)], health, poll_seconds=0, queue=None)
    assert watcher.once(), health.problems()
    for run_id in submitter.runs:
        submission.write_submission(TaskStore(cloud.store("watcher"), "pets"), run_id, Submission(run_id=run_id))
    return submitter.runs


def run_training(cloud: Cloud, task: Task, run_id: str, folder: Path) -> str:
    context = workspace(cloud, "training", folder).context
    assert submission.read_submission(context.store, run_id) == Submission(run_id=run_id)
    with context.store.lock() as fenced:
        context = replace(context, store=fenced)
        assert isinstance(stages.plan(context, task, Request(purpose="trial")), Plan)
        ended = stages.run_plan(context, context.files(run_id).plan())
        fenced.objects.write(PETS.run(run_id, "error.txt"), b"what a step notes")
    assert TaskStore(cloud.admin, "pets").champion.read().run_id == ended.run_id
    return ended.run_id


def read_metrics_and_predict(cloud: Cloud, task: Task) -> None:
    """Read the exporter's metrics and page, and load the champion as a server does."""
    exporter = Exporter([WatchedTask(TaskStore(cloud.store("exporter"), "pets"))])
    exporter.refresh()
    values = {sample.name: sample.value for family in exporter.collect() for sample in family.samples}
    assert values["retrain_ledger_read_errors_total"] == 0
    assert values["retrain_champion_accuracy_ratio"] > 0.5
    assert b"Learning speed" in pages.draw_page(task)
    champion = FollowedChampion(Source(TaskStore(cloud.store("serving"), "pets")), "cpu", Counts("pets"))
    assert champion.refresh() is False
    assert champion.model.run_id == TaskStore(cloud.admin, "pets").champion.read().run_id


def may(act: Callable[[str], object], key: str) -> bool:
    """Return whether the request is allowed. Raise any error that is not a denial."""
    try:
        act(key)
    except Denied:
        return False
    return True


def matching_objects(question: Callable[[str], bool]) -> set[str]:
    """Return the keys for which the function returns true. The calls are parallel."""
    keys = sorted(ALL)
    return {key for key, answer in zip(keys, map_ahead(question, keys), strict=True) if answer}


def assert_nothing_else_is_allowed(cloud: Cloud, role: str) -> None:
    assert matching_objects(partial(may, lambda key: cloud.admin.write(key, b"there"))) == ALL
    store = cloud.store(role)
    assert matching_objects(partial(may, store.read)) == MAY_READ[role]
    assert matching_objects(partial(may, lambda key: store.write(key, b"mine"))) == MAY_WRITE[role]
    assert matching_objects(lambda key: cloud.admin.read(key)[0] == b"mine") == MAY_WRITE[role]
    assert matching_objects(partial(may, store.delete)) == MAY_DELETE[role]
    assert {entry.key for entry in cloud.admin.list()} >= ALL - MAY_DELETE[role]
    prefixes = {"", CARS.drops, CARS.ledger, CHAMPION}
    listed = {prefix for prefix in prefixes if may(lambda prefix: list(store.list(prefix)), prefix)}
    assert listed - {CHAMPION} == MAY_LIST[role] - {CHAMPION}
    assert_nothing_outside_the_prefix(cloud, role)


def assert_nothing_outside_the_prefix(cloud: Cloud, role: str) -> None:
    cloud.store(KEY, "s3://retrain-example").write("others/secret", b"theirs")
    whole = cloud.store(role, "s3://retrain-example")
    for act in (
        lambda: list(whole.list()),
        lambda: whole.read("others/secret"),
        lambda: whole.write("others/mine", b""),
        lambda: whole.delete("others/secret"),
    ):
        with pytest.raises(Denied):
            act()
