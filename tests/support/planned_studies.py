"""Plan studies at the papers' scale without training them, on drops that have only the sizes of the real data sets."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import chain

from retrain.experiments.files import load_study
from retrain.experiments.grid import Cell, cells, drop_ids
from retrain.experiments.runs import Data, Runs
from retrain.experiments.settings import Study
from retrain.records import Drop, Plan

EACH = {
    "cifar10": (10, 5000),
    "cifar100": (100, 500),
    "svhn": (10, 7326),
    "imagenet-100": (100, 1300),
    "imagenet-200": (200, 1300),
    "adaptiope-product-images": (123, 90),
    "adaptiope-real-life": (123, 90),
}
"""Number of classes of each data set, and number of training images of each class."""


class Imagined(Runs):
    """A study's runs on drops without images. The drops have the real sizes. The runs are planned but never trained."""

    def data(self, cell: Cell) -> Data:
        return Data(tuple(self._drops(cell)), {})

    def _drops(self, cell: Cell) -> Iterator[Drop]:
        sizes = list(landed(self.study, cell.split))
        for number, (name, counts) in enumerate(zip(drop_ids(self.study, cell), sizes, strict=False)):
            yield Drop(
                id=name,
                task="imagined",
                classes=tuple(counts),
                shards=(),
                counts={"train": counts, "val": dict.fromkeys(counts, 10), "test": dict.fromkeys(counts, 10)},
                held_out={},
                digest=f"{cell.split} {name}",
                committed_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number),
            )


def landed(study: Study, split: str) -> Iterator[dict[str, int]]:
    """Yield the number of training images of each drop by class, without the share `data.val_share` of them."""
    setting = study.splits[split]
    names, each = EACH[study.data[0].name]
    each = round(each * (1 - study.set.get("data.val_share", 0)))
    if setting.step:
        yield from ({f"class {number}": setting.step // names for number in range(names)} for _ in range(setting.steps))
    elif setting.by == "classes":
        start = 0
        for size in map(int, setting.sizes.split("+")):
            yield {f"class {number}": each for number in range(start, start + size)}
            start += size
    elif setting.by in ("source", "transfer"):
        for data in study.data:
            names, each = EACH[data.name]
            yield {f"class {number}": each for number in range(names)}
    else:
        for percent in map(int, setting.sizes.split("+")):
            yield {f"class {number}": each * percent // 100 for number in range(names)}


@cache
def planned(name: str, most_drops: int = 11, seeds: int | None = None) -> dict[Cell, Plan]:
    """Return the plan of every cell (a run of one method on the first drops of a split, with one seed).

    For online studies, return only the plans on the first `most_drops` drops, because all steps are alike.
    """
    study = load_study(name)
    study = study.model_copy(update={"seeds": study.seeds[:seeds]})
    runs, longest = Imagined(study, None), max(study.count_drops(split) for split in study.splits)
    grid = chain.from_iterable(cells(study, drops) for drops in range(1, min(longest, most_drops) + 1))
    return {cell: runs.plan(cell) for cell in grid}


def describe(plan: Plan) -> str:
    """Return the plan's recipe and number of iterations as text, in the format of the tests' tables."""
    start, objective, sampling = plan.recipe.initialization, plan.recipe.objective, plan.recipe.sampling
    texts = [
        f"{start.name} {numbers(start, 'scale', 'alpha', 'beta', 'deviation')}{numbers(start, 'head_first') or ''}",
        f"{objective.name} {numbers(objective, 'strength', 'epsilon')} {getattr(objective, 'anchor', '')}",
        f"{sampling.name} {numbers(sampling, 'share', 'probability', 'new')}",
        str(plan.iterations),
    ]
    return " | ".join(" ".join(text.split()) for text in texts).replace("warm 0 |", "warm |")


def numbers(setting: object, *names: str) -> str:
    return " ".join(f"{getattr(setting, name):g}" for name in names if hasattr(setting, name))
