"""Plain manifests and examples match the chart, and Kubernetes and AWS accept them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import boto3
import pytest
import yaml
from support.programs import need
from support.rendered import CHART, ROOT, Document, validate

from retrain.config.task import Task

EXAMPLES = ROOT / "k8s" / "examples"
AWS = EXAMPLES / "aws"
MANIFESTS = sorted(path.relative_to(ROOT) for path in (ROOT / "k8s").rglob("*.yaml") if path.name != "values.yaml")


def load(path: Path) -> list[Document]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def test_generated_manifests_are_up_to_date(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / "manifests.py", tmp_path], check=True)
    generated = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    folders = {path.parent for path in generated if path.parts[0] == "k8s"}
    committed = [path for folder in folders for path in (ROOT / folder).iterdir()]
    committed += [CHART / "values.schema.json", CHART / "README.md"]
    assert {path.relative_to(ROOT): path.read_text() for path in committed} == generated


@pytest.mark.parametrize("path", MANIFESTS, ids=str)
def test_manifests_are_accepted_by_kubernetes(path: Path) -> None:
    validate([document for each in load(ROOT / path) for document in (each, *inner(each))], set())


def inner(document: Document) -> Iterator[Document]:
    """Yield the objects that a sensor creates."""
    for trigger in document["spec"].get("triggers", ()) if document["kind"] == "Sensor" else ():
        yield trigger["template"]["k8s"]["source"]["resource"]


NO_MANIFESTS = {"kustomization.yaml", "README.md", "Dockerfile", "server.py"}


def test_kustomizations_name_all_files_of_their_folders() -> None:
    found = list((ROOT / "k8s").rglob("kustomization.yaml"))
    assert len(found) == 7
    for path in found:
        (document,) = load(path)
        generators = document.get("configMapGenerator", ())
        named = {*document["resources"], *(file for each in generators for file in each["files"])}
        named = {name for name in named if not (path.parent / name).is_dir()}
        assert named == {each.name for each in path.parent.iterdir() if each.is_file()} - NO_MANIFESTS


POOLS = ["gke-gpu-pool.yaml", "eks-karpenter-gpu-pool.yaml", "kueue-queues.yaml"]


@pytest.mark.parametrize("name", POOLS)
def test_task_in_an_example_is_valid(name: str) -> None:
    lines = [line.removeprefix("# ") for line in (EXAMPLES / name).read_text().splitlines() if line.startswith("#   ")]
    resources = yaml.safe_load("\n".join(lines))
    assert Task.model_validate({"name": "flowers"} | resources).resources.gpus.count == 1


def test_kueue_example_uses_a_current_api_version() -> None:
    assert {document["apiVersion"] for document in load(EXAMPLES / "kueue-queues.yaml")} == {"kueue.x-k8s.io/v1beta2"}


def test_kueue_example_preempts_a_training_of_lower_priority() -> None:
    """By default, Kueue never preempts."""
    [queue] = [each for each in load(EXAMPLES / "kueue-queues.yaml") if each["kind"] == "ClusterQueue"]
    assert queue["spec"]["preemption"] == {"withinClusterQueue": "LowerPriority"}


def test_aws_accepts_queue_policies_and_notification(s3: str) -> None:
    def client(service: str) -> Any:
        return boto3.client(service, endpoint_url=s3, region_name="eu-west-1")

    sqs, bucket = client("sqs"), client("s3")
    for name in ("retrain-dead", "retrain"):
        url = sqs.create_queue(QueueName=name)["QueueUrl"]
    policies = {"Policy": (AWS / "queue-policy.json").read_text(), "RedrivePolicy": (AWS / "redrive.json").read_text()}
    sqs.set_queue_attributes(QueueUrl=url, Attributes=policies)
    bucket.create_bucket(Bucket="retrain-example", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    configuration = json.loads((AWS / "bucket-notification.json").read_text())
    bucket.put_bucket_notification_configuration(Bucket="retrain-example", NotificationConfiguration=configuration)
    sqs.purge_queue(QueueUrl=url)
    for key in ("train-000000.tar", "drop.json", "_SUCCESS"):
        bucket.put_object(Bucket="retrain-example", Key=f"models/flowers/drops/monday/{key}", Body=b"")
    messages = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    keys = [json.loads(message["Body"])["Records"][0]["s3"]["object"]["key"] for message in messages]
    assert sorted(unquote_plus(key).rpartition("/")[2] for key in keys) == ["_SUCCESS", "drop.json"]
    for path in AWS.glob("policy-*.json"):
        client("iam").create_policy(PolicyName=path.stem, PolicyDocument=path.read_text())


def test_apply_script_keeps_a_buckets_other_notifications(s3: str, tmp_path: Path) -> None:
    bucket, sqs, iam = (boto3.client(name, endpoint_url=s3, region_name="eu-west-1") for name in ("s3", "sqs", "iam"))
    bucket.create_bucket(Bucket="shared-example", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    queue = {"Id": "audit", "QueueArn": "arn:aws:sqs:eu-west-1:123456789012:audit", "Events": ["s3:ObjectRemoved:*"]}
    topic = {"Id": "news", "TopicArn": "arn:aws:sns:eu-west-1:123456789012:news", "Events": ["s3:ObjectCreated:*"]}
    notifications = {"QueueConfigurations": [queue], "TopicConfigurations": [topic]}
    bucket.put_bucket_notification_configuration(Bucket="shared-example", NotificationConfiguration=notifications)
    for path in AWS.iterdir():  # names that no other test uses
        (tmp_path / path.name).write_text(path.read_text().replace("retrain", "shared"))
    program = tmp_path / "aws"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m support.aws_program "$@"\n')
    program.chmod(0o755)
    folders = (str(tmp_path), str(Path(need("jq", "jq")).parent), os.environ["PATH"])
    environment = os.environ | {"AWS_ENDPOINT_URL": s3, "PATH": ":".join(folders), "PYTHONPATH": str(ROOT / "tests")}
    outputs = []
    for _ in range(2):  # the script can be run again
        ended = subprocess.run(["bash", tmp_path / "apply.sh"], env=environment, capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
        outputs.append(ended.stdout)
    found = bucket.get_bucket_notification_configuration(Bucket="shared-example")
    assert sorted(each["Id"] for each in found["QueueConfigurations"]) == ["audit", "drops-committed", "drops-ended"]
    assert found["TopicConfigurations"] == [topic]
    url = sqs.get_queue_url(QueueName="shared")["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"].endswith(":shared-dead")
    assert json.loads(attributes["Policy"]) == json.loads((tmp_path / "queue-policy.json").read_text())
    names = {policy["PolicyName"] for policy in iam.list_policies(Scope="Local")["Policies"]}
    assert {path.stem.replace("policy", "shared") for path in AWS.glob("policy-*.json")} <= names
    assert [output.count("exists and stays as it is") for output in outputs] == [0, 6]
    assert outputs[0].splitlines()[-1] == outputs[1].splitlines()[-1] == f"watcher.queueUrl: {url}"
