"""Make small studies on scanned digits, with folders, grids and results written by hand."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from retrain.experiments.datasets import write_digits
from retrain.experiments.grid import Cell
from retrain.experiments.kept_runs import EndedRun
from retrain.experiments.settings import Study
from retrain.experiments.workers import Workers
from retrain.records import Cost, Curve, Machine, Point, Result, RunRecord

CPU = Workers(device="cpu")
TASK = """
name: tiny
data: {image_size: 8, crop_padding: 0, flip: false, val_share: 0.2, test_share: 0.2}
model: {name: mlp, options: {width: 16}}
recipe: {preset: paper}
training: {epochs: 3, evaluate_every: 1, batch_size: 64}
"""


@contextmanager
def workplace(root: Path) -> Iterator[Path]:
    """Provide a folder with a task, digits and a cache. Use one thread: runs can then be compared bit for bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    write_digits(root / "digits")
    (root / "tasks").mkdir()
    (root / "tasks" / "tiny.yaml").write_text(TASK)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RETRAIN_TASKS", str(root / "tasks"))
        environment.setenv("RETRAIN_CACHE", str(root / "cache"))
        environment.setenv("RETRAIN_STUDIES", str(root / "studies"))
        environment.setenv("OMP_NUM_THREADS", "1")
        yield root
    torch.set_num_threads(threads)


def small_study(**fields: Any) -> Study:
    """Return a study of three methods on digits with one seed. The drops have 7 and 3 classes."""
    document: dict[str, Any] = {
        "name": "small",
        "title": "Small",
        "repeats": ["try-out"],
        "size": "mini",
        "regime": "tiny",
        "task": "tiny",
        "data": [{"name": "digits", "per_class": 40}],
        "splits": {"7+3": {"by": "classes", "sizes": "7+3"}},
        "methods": {"scratch": {"start": "scratch"}, "naive": {}, "init": {"aspects": ["initialization"]}},
        "seeds": [0],
    }
    return Study.model_validate(document | fields)


def ended_run(method: str, seed: int, accuracies: Mapping[int, float], drops: int = 2) -> EndedRun:
    """Return an ended run of a study with these accuracies by iteration."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    points = tuple(
        Point(iteration=at, accuracy=accuracy, loss=1.0, images=10, train_loss=1.0, learning_rate=0.1)
        for at, accuracy in accuracies.items()
    )
    result = Result(
        outcome="completed",
        iterations=points[-1].iteration,
        final_accuracy=points[-1].accuracy,
        best_accuracy=max(accuracies.values()),
        reached_at={"99": None, "100": None},
        speed_up={"99": None, "100": None},
        model_digest="m",
        index_digest="i",
        cost=Cost(
            iterations=points[-1].iteration,
            samples=1,
            evaluated_images=1,
            flops=1.0,
            flops_all_in=1.0,
            device_seconds=1.0,
            device_seconds_all_in=3600.0,
        ),
        machine=Machine(retrain="0", torch="0", device="cpu", threads=1),
        started_at=now,
        ended_at=now,
    )
    record = RunRecord(
        run_id=f"{method}-{seed}",
        task="t",
        method="scratch",
        purpose="trial",
        outcome="completed",
        error=None,
        dataset_digest="d",
        drops=("a", "b"),
        new_drops=("b",),
        parent=None,
        attempt=0,
        seed=seed,
        scale=1.0,
        target=None,
        result=result,
        evaluation=None,
        decision=None,
        savings=None,
        started_at=now,
        ended_at=now,
    )
    return EndedRun(Cell("task", "7+3", method, drops, seed), record, Curve(points=points), {})


TWO_SEEDS = [
    ended_run("scratch", 0, {10: 0.2, 20: 0.5, 30: 0.6, 40: 0.6}),
    ended_run("scratch", 1, {10: 0.3, 20: 0.7, 30: 0.9, 40: 0.8}),
    ended_run("naive", 0, {10: 0.55, 20: 0.58, 30: 0.59, 40: 0.595}),
    ended_run("naive", 1, {10: 0.5, 20: 0.6, 30: 0.7, 40: 0.8}),
    ended_run("init", 0, {5: 0.3, 10: 0.65}),
    ended_run("init", 1, {5: 0.85, 10: 0.95}),
]
"""Ended runs of three methods by two seeds, with their accuracies by iteration."""
