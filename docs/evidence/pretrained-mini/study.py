"""Compare continuing with training from scratch, if both begin with pretrained weights or with random weights.

    python docs/evidence/pretrained-mini/study.py CIFAR100 FOLDER

CIFAR100 is the data set as an image folder, or as tars of class/name.png. Three convolutions are pretrained on every
other class. The other 50 classes land as two drops, with 35 and 15 classes. For each seed, the study runs with the
pretrained weights and without them. Each time, it continues the champion of the first drop on both drops, and compares
the result with scratch on both drops. The lines of results.jsonl come from the ledger.
"""

import json
import sys
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from retrain.config.recipe import Recipe
from retrain.config.task import Data, Model, Task, Training
from retrain.data.labels import Sample
from retrain.data.packing import pack
from retrain.data.source import read_source
from retrain.data.staging import Staging, stable_hash
from retrain.experiments.subsets import write_folder
from retrain.pipeline import stages
from retrain.pipeline.context import make_context
from retrain.pipeline.planning import Request
from retrain.records import RunRecord
from retrain.store.task_store import open_task_store

SEEDS = (0, 1, 2, 3)
PER_CLASS = {"train": 100, "test": 40}
CIFAR_MEAN, CIFAR_STD = (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)

STARTS: dict[str, dict[str, Any]] = {
    "auto": {"name": "auto"},
    "warm": {"name": "warm", "head_rows": "class_means"},
    "shrink 0.4": {"name": "shrink_perturb", "alpha": 0.4, "new_rows": "class_means"},
    "shrink 0.8": {"name": "shrink_perturb", "alpha": 0.8, "new_rows": "class_means"},
}
"""Compared initializations. An initialization that gives the same plan as an earlier one is left out."""


def convolutions(classes: int, image_size: int) -> nn.Module:
    """Return the network of the study: three convolutions with BatchNorm, of 12, 24 and 48 channels."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((3, 12, 24, 48)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, classes))


def chosen(source: Path, parity: int) -> Iterator[Sample]:
    """Yield a hundred training and forty test images of every other class."""
    everything = sorted(read_source(source), key=lambda sample: (sample.class_name, sample.split or ""))
    names = sorted({sample.class_name for sample in everything})
    for (name, split), group in groupby(everything, key=lambda sample: (sample.class_name, sample.split)):
        if names.index(name) % 2 == parity:
            yield from sorted(group, key=lambda sample: stable_hash(sample.key, 0))[: PER_CLASS[str(split)]]


def task_of(name: str, folder: Path, seed: int, epochs: float, pretrained: Path | None) -> Task:
    """Return a task of the study, at 16x16 pixels."""
    return Task(
        name=name,
        store=str(folder / "store"),
        seed=seed,
        data=Data(image_size=16, mean=CIFAR_MEAN, std=CIFAR_STD, crop_padding=2, val_share=0.2),
        model=Model(name="study:convolutions", pretrained=str(pretrained) if pretrained else None),
        training=Training(epochs=epochs, batch_size=128),
    )


def run(task: Task, request: Request) -> RunRecord | None:
    """Do one run and return its record. Return None if the same plan was trained before."""
    done = stages.run_task(make_context(open_task_store(task), task, "cpu"), task, request)
    return done if isinstance(done, RunRecord) else None


def pretrain(images: Path, folder: Path) -> Path:
    """Train on the first half of the classes and return the model's file."""
    task = task_of("pretraining", folder, 0, 16, None)
    pack(images, task, open_task_store(task))
    record = run(task, Request())
    assert record
    return folder / "store" / task.name / "runs" / record.run_id / "model.safetensors"


def arm(images: Path, folder: Path, seed: int, weights: Path | None) -> Iterator[dict[str, Any]]:
    """Yield a line for each run on both drops."""
    kind = "pretrained" if weights else "random"
    task = task_of(f"{kind}-{seed}", folder, seed, 12, weights)
    staging = Staging.parse("classes", "35+15")
    pack(images, task, open_task_store(task), staging=staging, part=1)
    run(task, Request())
    pack(images, task, open_task_store(task), staging=staging, part=2)
    runs = {"scratch": run(task, Request(purpose="calibrate"))}
    for name, start in STARTS.items():
        changed = task.model_copy(update={"recipe": Recipe(initialization=start)})
        runs[name] = run(changed, Request("continuous", "trial"))
        yield from (line(kind, seed, method, record) for method, record in runs.items() if record)
        runs.clear()


def line(kind: str, seed: int, method: str, record: RunRecord) -> dict[str, Any]:
    """Return the results of a run for the page."""
    assert record.result
    assert record.evaluation
    return {
        "weights": kind,
        "seed": seed,
        "method": method,
        "run": record.run_id,
        "outcome": record.outcome,
        "iterations": record.result.iterations,
        "reached_at": record.result.reached_at["100"],
        "L_99": record.result.speed_up["99"],
        "L_100": record.result.speed_up["100"],
        "val": record.result.final_accuracy,
        "test": record.evaluation.accuracy,
    }


def main(source: Path, folder: Path) -> None:
    """Write results.jsonl next to the store."""
    torch.set_num_threads(1)
    for parity, name in enumerate(("first", "second")):
        if not (folder / name).exists():
            write_folder(chosen(source, parity), folder / name)
    weights = pretrain(folder / "first", folder)
    with (folder / "results.jsonl").open("w") as results:
        for seed in SEEDS:
            for start in (weights, None):
                for each in arm(folder / "second", folder, seed, start):
                    print(json.dumps(each), file=results, flush=True)
                    print(json.dumps(each), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
