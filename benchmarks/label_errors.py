"""Measure how many wrong labels `retrain data review` finds among images of CIFAR-100 with flipped labels.

The benchmark packs a drop from images with flipped labels and trains a model on it from scratch. Then it ranks the
samples of each split, with the most suspect samples first. k is the number of flipped labels in the split. The
precision among the first k samples equals the recall among them. Rankings of training samples:

- `learning speed`: the ranking of the command, by learning speed and then by mean loss, both counted during training;
- `mean loss`: by the mean of the losses counted during training (loss ranking);
- `self-confidence, in sample`: by the trained model's probability of the label, on its own training samples.

Rankings of held-out samples are `self-confidence, val` and `self-confidence, test`, by the model's probability of the
label (Northcutt et al., 2021).
"""

import argparse
import json
import random
import tarfile
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import average_precision_score

from retrain.config.task import Task
from retrain.data.packing import pack
from retrain.pipeline import stages
from retrain.pipeline.context import make_context
from retrain.pipeline.planning import Request
from retrain.pipeline.review import RankedSplit, Reviewer
from retrain.recipe.learning_speed import mean_loss
from retrain.records import RunRecord
from retrain.store.task_store import open_task_store

TRUE = "--"
"""Text between the true class and the original file name, in the names of the written files."""


def write_flipped(archives: Path, folder: Path, per_class: int, share: float, seed: int) -> int:
    """Write an image folder with `per_class` images of each class, and return the number of flipped labels.

    A random `share` of the images goes to the folder of another class.
    """
    draw = random.Random(seed)
    found = defaultdict[str, list[tuple[str, bytes]]](list)
    for path in sorted(archives.glob("train-*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                name, _, file = member.name.partition("/")
                content = archive.extractfile(member)
                if content:
                    found[name].append((file, content.read()))
    names = sorted(found)
    chosen = [(name, *one) for name in names for one in draw.sample(found[name], per_class)]
    flipped = set(draw.sample(range(len(chosen)), round(share * len(chosen))))
    for number, (name, file, data) in enumerate(chosen):
        label = draw.choice([other for other in names if other != name]) if number in flipped else name
        path = folder / label / f"{name}{TRUE}{file}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return len(flipped)


def scores(order: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    """Return precision and recall of a ranking.

    `order` [K] has samples, the most suspect first. `wrong` [N] states which labels were flipped.
    """
    k = int(wrong.sum())
    rank = np.empty(len(order))
    rank[order] = -np.arange(len(order))
    return {
        "precision_at_k": float(wrong[order[:k]].mean()),
        "precision_at_100": float(wrong[order[:100]].mean()),
        "recall_at_2k": float(wrong[order[: 2 * k]].sum() / k),
        "average_precision": float(average_precision_score(wrong, rank)),
    }


def measure(reviewer: Reviewer) -> dict[str, dict[str, float]]:
    """Return the scores of every ranking."""
    train, counters = reviewer.rank_split("train"), reviewer.counters()
    wrong = are_wrong(reviewer, train)
    own = reviewer.predict(train.samples, torch.arange(len(wrong))).gather(1, train.samples.labels[:, None])
    found = {
        "learning speed": scores(train.rank, wrong),
        "mean loss": scores(torch.argsort(mean_loss(counters), descending=True).numpy(), wrong),
        "self-confidence, in sample": scores(torch.argsort(own.flatten()).numpy(), wrong),
    }
    for split in ("val", "test"):
        held_out = reviewer.rank_split(split)
        found[f"self-confidence, {split}"] = scores(held_out.rank, are_wrong(reviewer, held_out))
    return found


def are_wrong(reviewer: Reviewer, judged: RankedSplit) -> np.ndarray:
    """Return whether each sample's label was flipped, bool [N]. Its key contains its label and its true class."""
    keys = (key.split("/") for key in reviewer.keys(judged))
    return np.array([name.partition(TRUE)[0] != label for label, name in keys])


def main() -> None:
    """Flip labels, pack, train, rank, and print all results as JSON."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument(
        "archives", type=Path, help="Folder with CIFAR-100 as train-*.tar. The images in it are named class/name.png."
    )
    options.add_argument("--per-class", type=int, default=200)
    options.add_argument("--epochs", type=float, default=20)
    options.add_argument("--width", type=int, default=16)
    options.add_argument("--share", type=float, default=0.05)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        flipped = write_flipped(chosen.archives, folder / "images", chosen.per_class, chosen.share, chosen.seed)
        task = Task.model_validate(
            {
                "name": "flipped",
                "store": str(folder / "store"),
                "seed": chosen.seed,
                "data": {"image_size": 16, "crop_padding": 2, "label_from": "folder"},
                "model": {"name": "resnet18", "options": {"width": chosen.width}},
                "training": {"epochs": chosen.epochs},
            }
        )
        store = open_task_store(task)
        pack(folder / "images", task, store)
        context = replace(make_context(store, task, "auto"), cache=folder / "cache")
        record = stages.run_task(context, task, Request())
        assert isinstance(record, RunRecord)
        assert record.result
        figures = {
            "seed": chosen.seed,
            "samples": 100 * chosen.per_class,
            "flipped": flipped,
            "width": chosen.width,
            "epochs": chosen.epochs,
            "val_accuracy": record.result.final_accuracy,
            "machine": f"{record.result.machine.device}, torch {torch.__version__}",
            "rankings": measure(Reviewer(context, context.files(record.run_id).plan())),
        }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
