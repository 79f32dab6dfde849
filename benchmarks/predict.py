"""Measure `retrain predict` in images per second, compared with a loop written by hand, on JPEG photographs.

Both decode JPEGs, run the same network and return the most probable class. They alternate over the same files. Other
programs on the machine then slow both down alike.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from lib.noise import CPU, Case, run_of
from lib.report import parser, report
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from retrain.inference.batch import predict_rows
from retrain.inference.model import BATCH, Model
from retrain.inference.preprocess import Preprocess
from retrain.inference.tables import Row
from retrain.utils.processes import available_cores

IMAGES, SIDE, TURNS = 2000, 64, 7
CASE = Case(16, 32)


class Files(Dataset[Tensor]):
    """A dataset of image files, as users write it."""

    def __init__(self, paths: Sequence[str], model: Model) -> None:
        data = model.plan.task.data
        self.paths, self.size = paths, (data.frame.width, data.frame.height)
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as image:
            pixels = np.array(image.convert("RGB").resize(self.size, Image.Resampling.BICUBIC))
        return (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - self.mean) / self.std


def written_by_hand(model: Model, paths: Sequence[str]) -> list[str]:
    """Return the most probable class of each file, found by a loop over PyTorch's loader."""
    loader = DataLoader(Files(paths, model), BATCH, num_workers=available_cores())
    names = []
    with torch.inference_mode():
        for images in loader:
            values, indices = model.network(images).softmax(1).max(1)
            names += [model.classes[index] for index, _ in zip(indices.tolist(), values.tolist(), strict=True)]
    return names


def predicted(model: Model, paths: Sequence[str]) -> list[str]:
    """Return the most probable class of each file, found by `retrain predict`."""
    return [answer.top[0].label for answer in predict_rows(model, map(Row, paths))]


def write_images(folder: Path) -> list[str]:
    """Write smooth random JPEGs, and return their paths."""
    random, paths = np.random.default_rng(0), []
    for number in range(IMAGES):
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
        path = folder / f"{number}.jpg"
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, quality=90)
        paths.append(str(path))
    return paths


def rate(predict: Callable[[Model, Sequence[str]], list[str]], model: Model, paths: Sequence[str]) -> float:
    """Return the images per second in one pass over the files."""
    began = time.perf_counter()
    names = predict(model, paths)
    assert len(names) == len(paths)
    return len(paths) / (time.perf_counter() - began)


def main() -> None:
    """Alternate between both programs."""
    options = parser(__doc__).parse_args()
    run = run_of(CASE, "scratch", 256, 1)
    model = Model(run.plan, run.network.eval(), CPU, Preprocess(run.plan.task.data))
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(Path(folder))
        turns = [(rate(predicted, model, paths), rate(written_by_hand, model, paths)) for _ in range(TURNS)]
    figures = {
        "case": CASE.name,
        "files": f"{IMAGES} JPEGs of {SIDE}x{SIDE}",
        "predict": round(statistics.median(predict_rate for predict_rate, _ in turns)),
        "written_by_hand": round(statistics.median(loop_rate for _, loop_rate in turns)),
        "median_of_ratios": round(statistics.median(predict_rate / loop_rate for predict_rate, loop_rate in turns), 3),
    }
    report({"results": [figures]}, options.output)


if __name__ == "__main__":
    main()
