"""Time and memory with 100,000 classes of one sample each. ImageNet-21k has about a fifth as many classes."""

import os
import time
from pathlib import Path

import pytest
from PIL import Image
from support.pictures import encoded, png
from support.uploads import ingest_as_watcher, shard, task_in, upload

from retrain.config.task import Model, Task, Training
from retrain.pipeline import stages
from retrain.pipeline.context import make_context
from retrain.pipeline.next_run import plan_next_run
from retrain.pipeline.planning import Request
from retrain.records import Plan, RunRecord
from retrain.store import LocalStore
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore
from retrain.utils.processes import run_in_subprocess
from retrain.watcher.ingestion import validate_drop

CLASSES, KEYS = 100_000, TaskKeys("pets")


def commit_and_measure(task: Task, drop: str, cache: Path) -> tuple[str | None, int, float]:
    """Commit a drop. Return the cause of a refusal, and the peak memory (kB) and processor time (s) of this process.

    `getrusage` is not used, because its peak includes the memory of the parent process. The process uses one core. With
    more cores, its threads wait for each other after each tiny image, and this takes a third of the processor time.
    """
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    before = time.process_time()
    cause = validate_drop(task, drop, cache).cause
    seconds = time.process_time() - before
    (most,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return cause, int(most.split()[1]), seconds


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Return a task with one drop that has one sample per class, and with a tiny network and a few iterations."""
    task = task_in(tmp_path_factory.mktemp("many"), image_size=4, val_share=0.002, test_share=0.002, flip=False)
    store, image = LocalStore(Path(task.store)), encoded(Image.new("RGB", (4, 4)), "BMP")
    images = (image[:-48] + n.to_bytes(48, "little") for n in range(CLASSES))
    upload(store, "many", {"train.tar": shard((f"class-{n:06d}/1.bmp", one) for n, one in enumerate(images))})
    arguments = task, "many", Path(task.store).parent / "cache"
    cause, most, seconds = run_in_subprocess("committing many classes", 600, commit_and_measure, *arguments)
    assert cause is None
    assert most < 1_000_000, "the limit is 1,000,000 kB; torch alone takes 500,000 kB"
    assert seconds < 100, "it takes 30 s, and 160 s if its time grows with the square of the classes"
    training = Training(epochs=0.005, batch_size=64, evaluate_every=1)
    return task.model_copy(update={"model": Model(name="mlp", options={"width": 4}), "training": training})


def test_drop_of_100000_classes_is_committed_and_planned(landed: Task) -> None:
    store = LocalStore(Path(landed.store))
    assert len(TaskStore(store, "pets").drops.read("many").classes) == CLASSES
    before = time.process_time()
    plan = plan_next_run(TaskStore(store, "pets"), landed, Request())
    assert time.process_time() - before < 8
    assert isinstance(plan, Plan)
    assert len(plan.dataset.classes) == CLASSES


def test_100000_classes_are_trained_and_continued_with_more(landed: Task) -> None:
    context = make_context(TaskStore(LocalStore(Path(landed.store)), landed.name), landed, "cpu")
    first = stages.run_task(context, landed, Request())
    members = [(f"new-{number % 20:02d}/{number}.png", png(number, 4)) for number in range(60)]
    tars = {f"{split}.tar": shard(members[n::3]) for n, split in enumerate(("train", "val", "test"))}
    assert ingest_as_watcher(landed, context.store.objects, "more", tars) is None
    # The run is a trial: a retraining whose target is near the chance level would train from scratch.
    second = stages.run_task(context, landed, Request("continuous", "trial"))
    assert isinstance(first, RunRecord)
    assert isinstance(second, RunRecord)
    assert [each.method for each in (first, second)] == ["scratch", "continuous"]
    assert context.store.champion.read().run_id == second.parent == first.run_id
    assert len(context.store.run(second.run_id).plan().dataset.classes) == CLASSES + 20
