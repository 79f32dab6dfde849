"""The pipeline's steps, called as in their pods: the objects that they store, and the errors that they raise."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from kfp import dsl
from PIL import Image
from support.pictures import folder, two_classes
from torch import Tensor, nn

from retrain.config.recipe import Cosine, Fresh, Recipe
from retrain.config.task import Data, Model, Task, Training
from retrain.data.packing import pack
from retrain.kubeflow import steps, submission
from retrain.kubeflow.outputs import write_outputs
from retrain.records import Drop, RunRecord
from retrain.store import LocalStore
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore
from retrain.training.preemption import raise_preempted

KEYS = TaskKeys("pets")
JOB = "the job"


class Fragile(nn.Module):
    """A linear network that raises an error if it is `broken`.

    Otherwise, it sends SIGTERM to its process at the tenth batch.
    """

    batches = 0

    def __init__(self, classes: int, image_size: int, broken: bool = False) -> None:
        super().__init__()
        self.broken = broken
        self.linear = nn.Linear(3 * image_size**2, classes)

    def forward(self, images: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled() and images.device.type != "meta":
            if self.broken:
                raise RuntimeError("an illegal memory access was encountered")
            Fragile.batches += 1
            if Fragile.batches == 10:
                os.kill(os.getpid(), signal.SIGTERM)
        return self.linear(images.flatten(1))


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RETRAIN_CACHE", str(tmp_path / "cache"))
    before = signal.signal(signal.SIGTERM, raise_preempted)
    yield
    signal.signal(signal.SIGTERM, before)
    log = logging.getLogger("retrain")
    log.handlers.clear()
    log.propagate = True


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return Task(
        name="pets",
        store=str(tmp_path / "store"),
        data=Data(image_size=8, val_share=0.2, test_share=0.2),
        model=Model(name="logistic"),
        training=Training(epochs=8, batch_size=16, evaluate_every=1),
    )


def land(task: Task, root: Path) -> Drop:
    """Commit two classes of pictures as a drop."""
    (packed,) = pack(two_classes(root / "pictures"), task, TaskStore(LocalStore(Path(task.store)), task.name))
    return packed.drop


def coloured(root: Path, **channels: int) -> Path:
    """Write an image folder whose classes differ in their brightest channel. A linear network can learn them."""
    for number, (name, channel) in enumerate(channels.items()):
        folder(root, *(f"{name}/{index:02d}.png" for index in range(40)), first=1000 * number)
        for path in (root / name).iterdir():
            pixels = np.asarray(Image.open(path)).copy() // 4
            pixels[..., channel] += 190
            Image.fromarray(pixels).save(path)
    return root


def recorded(task: Task, run_id: str) -> RunRecord | None:
    return TaskStore(LocalStore(Path(task.store)), "pets").ledger.find(run_id)


def planned(task: Task, submission: str = "s1") -> str:
    return steps.plan(task.model_dump_json(), "", "retrain", submission, JOB)


def after_training(task: Task, run_id: str) -> list[str]:
    """Evaluate, promote and record a run. Return the run id that each step outputs."""
    return [step(task.model_dump_json(), run_id, "cpu") for step in (steps.evaluate, steps.promote, steps.record)]


def test_repeated_steps_change_nothing(task: Task, tmp_path: Path) -> None:
    land(task, tmp_path)
    run_id = planned(task)
    assert planned(task) == run_id
    for _ in range(2):
        assert steps.train(task.model_dump_json(), run_id, "cpu") == run_id
        assert after_training(task, run_id) == [run_id] * 3
        steps.finish(task.model_dump_json(), "s1", JOB, "SUCCEEDED", "")
        record = recorded(task, run_id)
        assert record
        assert (record.outcome, record.decision and record.decision.promoted) == ("completed", True)
    assert len(TaskStore(LocalStore(Path(task.store)), "pets").ledger.read()) == 1


def test_unwritable_outputs_are_left_out_with_a_warning(
    task: Task, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    land(task, tmp_path)
    run_id = planned(task)
    steps.train(task.model_dump_json(), run_id, "cpu")
    after_training(task, run_id)
    logging.getLogger("retrain").addHandler(caplog.handler)
    unwritable = str(tmp_path / "no folder" / "output")
    metrics = dsl.Metrics()
    write_outputs(
        task.model_dump_json(),
        run_id,
        metrics,
        dsl.ClassificationMetrics(),
        dsl.HTML(uri=unwritable),
        dsl.Model(uri=unwritable),
    )
    assert metrics.metadata["promoted"] == 1
    assert "some outputs will be missing in Kubeflow's UI: " in caplog.text


def test_plan_step_without_new_drops_stores_the_reason(task: Task) -> None:
    assert planned(task) == ""
    found = submission.read_submission(TaskStore(LocalStore(Path(task.store)), "pets"), "s1")
    assert found
    assert (found.run_id, found.error) == (None, None)
    assert "no drop has landed yet" in str(found.nothing)
    steps.finish(task.model_dump_json(), "s1", JOB, "SUCCEEDED", "")


def test_submission_keeps_its_run_despite_newer_drops(task: Task, tmp_path: Path) -> None:
    land(task, tmp_path)
    run_id = planned(task)
    pack(coloured(tmp_path / "second", green=1), task, TaskStore(LocalStore(Path(task.store)), task.name))
    assert planned(task) == run_id
    assert planned(task, "s2") != run_id


def test_waiting_pod_takes_the_run_another_pod_planned(
    task: Task, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    land(task, tmp_path)
    store, first = LocalStore(Path(task.store)), planned(task, "s0")
    pack(coloured(tmp_path / "second", green=1), task, TaskStore(store, task.name))
    logging.getLogger("retrain").addHandler(caplog.handler)
    with ThreadPoolExecutor(1) as pool:
        with TaskStore(store, "pets").try_lease():
            late = pool.submit(planned, task)
            while "waits for" not in caplog.text and not late.done():
                time.sleep(0.01)
            bound = submission.Submission(run_id=first)
            submission.write_submission(TaskStore(store, "pets"), "s1", bound)
        assert late.result() == first
    assert submission.read_submission(TaskStore(store, "pets"), "s1") == bound


def test_second_job_of_a_submission_does_nothing(task: Task, tmp_path: Path) -> None:
    land(task, tmp_path)
    run_id = planned(task)
    given = submission.Submission(run_id=run_id, job="the first")
    submission.write_submission(TaskStore(LocalStore(Path(task.store)), "pets"), "s1", given)
    text = task.model_dump_json()
    assert steps.plan(text, "", "retrain", "s1", "the second") == ""
    steps.finish(text, "s1", "the second", "FAILED", "terminated")
    assert recorded(task, run_id) is None
    assert steps.plan(text, "", "retrain", "s1", "the first") == run_id


def test_unplannable_request_fails_without_a_retry(task: Task) -> None:
    assert steps.plan(task.model_dump_json(), "guessing", "retrain", "s1", JOB) == ""
    with pytest.raises(SystemExit, match="'guessing' must be one of scratch, naive, continuous"):
        steps.finish(task.model_dump_json(), "s1", JOB, "SUCCEEDED", "")


def test_pipeline_whose_plan_step_did_not_end_fails(task: Task) -> None:
    with pytest.raises(SystemExit, match="planning did not end"):
        steps.finish(task.model_dump_json(), "s1", JOB, "FAILED", "")


def test_damaged_drop_is_recorded_and_uses_no_retry(task: Task, tmp_path: Path) -> None:
    drop = land(task, tmp_path)
    run_id = planned(task)
    shard = Path(task.store) / KEYS.drop_file(drop.id, drop.shards[0].name)
    shard.write_bytes(bytes(shard.stat().st_size))
    assert steps.train(task.model_dump_json(), run_id, "cpu") == run_id
    record = recorded(task, run_id)
    assert record
    assert record.outcome == "failed"
    assert str(record.error).startswith(task.store)
    assert after_training(task, run_id) == [run_id] * 3
    assert recorded(task, run_id) == record
    with pytest.raises(SystemExit, match=f"{run_id} failed: "):
        steps.finish(task.model_dump_json(), "s1", JOB, "SUCCEEDED", "")


def test_unexpected_error_is_recorded_by_the_last_step(task: Task, tmp_path: Path) -> None:
    task = task.model_copy(update={"model": Model(name=f"{__name__}:Fragile", options={"broken": True})})
    land(task, tmp_path)
    run_id = planned(task)
    with pytest.raises(RuntimeError, match="an illegal memory access"):
        steps.train(task.model_dump_json(), run_id, "cpu")
    assert recorded(task, run_id) is None, "the step may be tried again"
    with pytest.raises(SystemExit, match=f"{run_id} failed: "):
        steps.finish(task.model_dump_json(), "s1", JOB, "FAILED", "a pod failed")
    record = recorded(task, run_id)
    assert record
    assert (record.outcome, record.error) == ("failed", "RuntimeError: an illegal memory access was encountered")


def test_killed_pod_is_recorded_by_the_last_step(task: Task, tmp_path: Path) -> None:
    land(task, tmp_path)
    run_id = planned(task)
    with pytest.raises(SystemExit, match="failed: OOMKilled"):
        steps.finish(task.model_dump_json(), "s1", JOB, "FAILED", "OOMKilled")
    record = recorded(task, run_id)
    assert record
    assert (record.outcome, record.error) == ("failed", "OOMKilled")


def test_finish_follows_the_ledger_not_kubeflows_state(task: Task, tmp_path: Path) -> None:
    land(task, tmp_path)
    run_id = planned(task)
    steps.train(task.model_dump_json(), run_id, "cpu")
    after_training(task, run_id)
    record = recorded(task, run_id)
    assert record
    for state in ("SUCCEEDED", "COMPLETE", "RUNNING", "FAILED"):
        steps.finish(task.model_dump_json(), "s1", JOB, state, "")
    assert recorded(task, run_id) == record


def test_killed_pod_without_reason_is_recorded_with_its_state(task: Task, tmp_path: Path) -> None:
    land(task, tmp_path)
    run_id = planned(task)
    with pytest.raises(SystemExit, match=f"{run_id} failed: its pods ended without a record"):
        steps.finish(task.model_dump_json(), "s1", JOB, "RUNNING", "")
    record = recorded(task, run_id)
    assert record
    assert (record.outcome, "RUNNING" in str(record.error)) == ("failed", True)


def test_preempted_training_fails_its_step_and_resumes(task: Task, tmp_path: Path) -> None:
    task = task.model_copy(update={"model": Model(name=f"{__name__}:Fragile")})
    land(task, tmp_path)
    run_id = planned(task)
    Fragile.batches = 0
    with pytest.raises(SystemExit) as left:
        steps.train(task.model_dump_json(), run_id, "cpu")
    assert left.value.code == os.EX_TEMPFAIL
    assert recorded(task, run_id) is None
    assert steps.train(task.model_dump_json(), run_id, "cpu") == run_id
    result = TaskStore(LocalStore(Path(task.store)), "pets").run(run_id).result()
    assert result
    assert Fragile.batches == result.cost.iterations, "no batch was trained twice"
    assert result.outcome == "completed"


def test_train_step_outputs_the_escalated_run_after_a_miss(task: Task, tmp_path: Path) -> None:
    short = Cosine(scale=0.02, escalation=(0.25,))
    separate = task.resources.model_copy(update={"separate_evaluation": True})
    task = task.model_copy(
        update={"recipe": Recipe(preset="paper", initialization=Fresh(), schedule=short), "resources": separate}
    )
    store = LocalStore(Path(task.store))
    pack(coloured(tmp_path / "first", red=0, blue=2), task, TaskStore(store, task.name))
    first = planned(task)
    steps.train(task.model_dump_json(), first, "cpu")
    after_training(task, first)
    pack(coloured(tmp_path / "second", green=1), task, TaskStore(store, task.name))
    start = planned(task, "s2")
    last = steps.train(task.model_dump_json(), start, "cpu")
    missed = recorded(task, start)
    assert missed
    assert missed.outcome == "missed"
    assert TaskStore(store, "pets").run(last).plan().earlier[0] == start != last
    assert steps.train(task.model_dump_json(), start, "cpu") == last, "a retry outputs the same run"
    assert recorded(task, last) is None
    after_training(task, last)
    steps.finish(task.model_dump_json(), "s2", JOB, "SUCCEEDED", "")
    assert [record.run_id for record in TaskStore(store, "pets").ledger.read()][-1] == last


WITHOUT_TRAINING = """
import sys
from retrain.kubeflow import steps

text, submission, job = sys.argv[1:]
print(steps.plan(text, "", "retrain", submission, job))
try:
    steps.finish(text, submission, job, "FAILED", "a pod was lost")
finally:
    print("torch" in sys.modules)
"""


def test_planning_and_recording_a_failure_import_no_torch(task: Task, tmp_path: Path) -> None:
    store = TaskStore(LocalStore(Path(task.store)), task.name)
    pack(coloured(tmp_path / "first", red=0, blue=2), task, store)
    first = planned(task)
    steps.train(task.model_dump_json(), first, "cpu")
    pack(coloured(tmp_path / "second", green=1), task, store)
    command = [sys.executable, "-c", WITHOUT_TRAINING, task.model_dump_json(), "s2", JOB]
    process = subprocess.run(command, capture_output=True, text=True)
    run_id, loaded = process.stdout.split()
    assert loaded == "False"
    assert store.run(run_id).plan().parent == first
    record = recorded(task, run_id)
    assert record
    assert (record.outcome, record.error) == ("failed", "a pod was lost")


def test_worker_ends_with_one_message_on_a_task_it_cannot_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A newer version of retrain than the image's may have written the job."""
    logging.getLogger("retrain").addHandler(caplog.handler)
    monkeypatch.setattr("sys.argv", ["steps", "complete", '{"name": "pets", "colour": 1}', "scratch-1", "cpu"])
    with pytest.raises(SystemExit) as end:
        steps.worker_main()
    assert end.value.code == 2
    assert "unknown field 'colour'" in caplog.text
    assert "Traceback" not in caplog.text
