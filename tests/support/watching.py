"""Set up tests of the watcher: a bucket that notifies a queue, drops, and finished runs."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3

from retrain.config.resources import Kubeflow
from retrain.config.task import Data, Model, Task
from retrain.data.packing import pack
from retrain.pipeline.accounting import make_record
from retrain.pipeline.executor import Executor
from retrain.records import Plan
from retrain.store.claims import Claim
from retrain.store.s3.sqs import SqsQueue
from retrain.store.task_store import TaskStore, open_task_store
from retrain.watcher.events import FINAL_FILES
from retrain.watcher.health import Health
from retrain.watcher.queue import EventQueue
from retrain.watcher.task_watch import Pace, TaskWatch
from retrain.watcher.watcher import Watcher
from support.pictures import two_classes

DATA = Data(image_size=8, val_share=0.2, test_share=0.2)
PACE = Pace(lease=60)
EAGER = Pace(lease=60, check=0, retry=0)
LOCAL_TASK = """
name: pets
store: store
data: {image_size: 8, val_share: 0.2, test_share: 0.2, crop_padding: 0, flip: false}
model: {name: logistic}
training: {epochs: 1}
"""
"""A task file with a store in the working directory."""


@dataclass
class TaskUnderTest:
    """A task, its store and its watchers. Some methods do what producers and pipelines would do."""

    task: Task
    store: TaskStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = open_task_store(self.task)

    def land(self, source: Path, drop: str) -> None:
        """Commit a drop whose content no other drop has."""
        landed = len(list(source.iterdir())) if source.exists() else 0
        images = two_classes(source / drop, each=40 + landed, first=1000 * landed)
        pack(images, self.task, self.store, drop_id=drop)

    def owners(self) -> dict[str, str]:
        """Return the run that claimed each drop."""
        claims = [self.store.objects.read(entry.key)[0] for entry in self.store.objects.list(self.store.keys.claims)]
        return {claim.drop: claim.run_id for claim in map(Claim.model_validate_json, claims)}

    def plan(self, run_id: str) -> Plan:
        return self.store.run(run_id).plan()

    def end(self, run_id: str) -> None:
        """End a run and write its record, as its pipeline would."""
        record = make_record(self.plan(run_id), None, None, None, "ended by the test")
        self.store.ledger.write(record)

    def watcher(
        self, submitter: Executor, queue: SqsQueue | None = None, pace: Pace = PACE, poll_seconds: float = 0
    ) -> Watcher:
        """Return a watcher with separate clients. By default, each of its turns lists all drops."""
        health = Health([self.task.name])
        inbox = EventQueue(queue, [self.task], health) if queue else None
        return Watcher([TaskWatch(self.task, submitter, health, pace)], health, poll_seconds, inbox)


class Recorder:
    """An executor that records the runs that it should start, and starts none."""

    def __init__(self) -> None:
        self.runs: list[str] = []

    def ensure(self, task: Task, plan: Plan, store: TaskStore) -> bool:
        new = plan.run_id not in self.runs
        if new:
            self.runs.append(plan.run_id)
        return new


def metrics_of(watcher: Watcher) -> dict[str, float]:
    """Return the metrics of the watcher's only task, by name."""
    return {sample.name: sample.value for metric in watcher.health.collect() for sample in metric.samples}


def on_s3(bucket: str, endpoint: str, host: str | None = None) -> TaskUnderTest:
    """Return a task whose store is on S3."""
    store = f"s3://{bucket}/team a"
    settings = {"store": store, "endpoint_url": endpoint, "kubeflow": Kubeflow(host=host)}
    return TaskUnderTest(Task(name="pets", data=DATA, model=Model(name="logistic"), **settings))


def notified_queue(bucket: str, endpoint: str) -> str:
    """Return the URL of a queue. The bucket notifies it of every complete drop."""
    sqs: Any = boto3.client("sqs", endpoint_url=endpoint)
    url: str = sqs.create_queue(QueueName=f"events-{uuid4().hex}")["QueueUrl"]
    arn = _arn(sqs, url)
    s3: Any = boto3.client("s3", endpoint_url=endpoint)
    configurations = [
        {
            "QueueArn": arn,
            "Events": ["s3:ObjectCreated:*"],
            "Filter": {"Key": {"FilterRules": [{"Name": "suffix", "Value": name}]}},
        }
        for name in FINAL_FILES
    ]
    s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"QueueConfigurations": configurations}
    )
    sqs.close()
    s3.close()
    return url


def dead_letters(queue_url: str, endpoint: str, tries: int) -> str:
    """Return the URL of a queue for messages that were received `tries` times and never deleted."""
    sqs: Any = boto3.client("sqs", endpoint_url=endpoint)
    url: str = sqs.create_queue(QueueName=f"dead-{uuid4().hex}")["QueueUrl"]
    policy = json.dumps({"deadLetterTargetArn": _arn(sqs, url), "maxReceiveCount": tries})
    sqs.set_queue_attributes(QueueUrl=queue_url, Attributes={"RedrivePolicy": policy})
    sqs.close()
    return url


def _arn(sqs: Any, url: str) -> str:
    arn: str = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    return arn


def send(queue_url: str, endpoint: str, *bodies: str) -> None:
    """Send messages to a queue."""
    sqs: Any = boto3.client("sqs", endpoint_url=endpoint)
    for body in bodies:
        sqs.send_message(QueueUrl=queue_url, MessageBody=body)
    sqs.close()


def counts(queue_url: str, endpoint: str) -> tuple[int, int]:
    """Return the number of waiting messages in a queue, and the number of received messages that were not deleted."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    sqs: Any = boto3.client("sqs", endpoint_url=endpoint)
    attributes = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=names)["Attributes"]
    sqs.close()
    waiting, taken = (int(attributes[name]) for name in names)
    return waiting, taken


def notification(bucket: str, key: str) -> str:
    """Return an event in the format of AWS."""
    event = {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}
    return json.dumps({"Records": [event]})
