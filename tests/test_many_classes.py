"""A hundred thousand classes, a sample each: time and memory stay sane."""

import resource
import time
from pathlib import Path

from pictures import png
from uploads import shard, task_in, upload

from retrain.data.drops import read_drop
from retrain.layout import Layout
from retrain.next_run import preview
from retrain.planning import Request
from retrain.records import Plan
from retrain.store import LocalStore
from retrain.trigger.apart import apart
from retrain.trigger.intake import take_in

CLASSES = 100_000


def test_a_drop_of_a_hundred_thousand_classes_is_committed_and_planned(tmp_path: Path) -> None:
    task, layout = task_in(tmp_path, image_size=4), Layout("pets")
    store, image = LocalStore(Path(task.store)), png(1, 4)
    upload(store, "many", {"train.tar": shard((f"class-{n:06d}/1.png", image) for n in range(CLASSES))})
    assert apart(600, take_in, task, "many") is None
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 1_500_000, "kB, torch's own 500,000 included"
    assert len(read_drop(store, layout, "many").classes) == CLASSES
    before = time.process_time()
    plan = preview(store, layout, task, Request())
    assert time.process_time() - before < 20
    assert isinstance(plan, Plan)
    assert len(plan.dataset.classes) == CLASSES
