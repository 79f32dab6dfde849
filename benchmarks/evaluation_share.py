"""Replay evaluations on the curves of real runs: count the images used, and check when they detect the target.

At each point of a curve, the replay classifies as many samples of val correctly as the run did, in a random order.
`measure` returns the number of images that the evaluation used. An evaluation of all of val uses every image at each
point (`full grid`). An evaluation by `subsets` ends when the target has become unlikely. `subsets, ledger` also uses
the other runs of the same method: the iterations after which the fastest of them reached 99 percent of its target.
Before a share (`EARLIEST_SHARE`) of these iterations, the target is not expected, and evaluations end sooner.

The target of a run is its own final accuracy. For `RETRAININGS` and `REGIMES`, the target is the final accuracy of the
scratch run on the same data with the same seed. Runs that did not reach it are left out. The curves of `REGIMES` have
the default evaluation interval. The other curves have few points. Values between them are interpolated to a hundred
epochs, or to fewer epochs for shortened schedules. In practice, scratch runs have no target. Their curves serve as
examples of shapes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lib.report import ROOT, parser, report
from torch import Tensor, nn

from retrain.config.task import Data
from retrain.data.augment import Normalize
from retrain.data.samples import Samples
from retrain.pipeline.targets import EARLIEST_SHARE
from retrain.recipe.speed_up import first_reaching
from retrain.training.evaluation import measure
from retrain.training.stopping import LOWEST_LEVEL

CPU = torch.device("cpu")
EVIDENCE = ROOT / "docs" / "evidence"
RUNS = {
    EVIDENCE / "performance" / "digits" / "runs.jsonl": 1,
    EVIDENCE / "performance" / "paper-scale" / "runs.jsonl": 2,
}
"""Files of stored runs, with the number of points of their curves per epoch."""
RETRAININGS = EVIDENCE / "verwimp-fitted-mini" / "runs.jsonl"
REGIMES = EVIDENCE / "regimes" / "results.jsonl"
"""Retrainings of several regimes. A regime is a data set, a network, and the order of the drops."""
QUICKER, SLOWER = "init+schedule x0.25", "all four x0.25"
"""Two methods. A run of the first one takes 0.7 to 1 times the iterations of the second one."""
SHARES, REPEATED = (0.6, 0.75, 0.8, 0.9), 10
EPOCHS = 100


class Bright(nn.Module):
    """A network that classifies only the bright images correctly: the images of class 1."""

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        bright = images.mean((1, 2, 3)) > 0
        return torch.stack([~bright, bright], 1).float()


class Case(NamedTuple):
    """A size of val, the number of images trained on between evaluations, and the evaluations per epoch."""

    name: str
    val: int
    between: int
    an_epoch: int = 1


EACH_EPOCH = (
    Case("every epoch, 45,000 + 5,000 images", 5_000, 45_000),
    Case("every epoch, 1,153,000 + 128,000 images", 128_000, 1_153_000),
)
TWICE = Case("twice an epoch, 45,000 + 5,000 images", 5_000, 22_500, 2)
DEFAULT_GRID = (
    (Case("60 evaluations in 100 epochs, 45,000 + 5,000 images", 5_000, 75_000), 1),
    (Case("60 evaluations in 100 epochs, 1,153,000 + 128,000 images", 128_000, 1_921_667), 5),
)
"""Cases, each with a number n. Only every n-th run is replayed, because a replay at the larger size takes seconds."""


class Used(NamedTuple):
    """Number of evaluated images, and the evaluation that detected the target."""

    images: int
    point: int

    def images_each(self, case: Case) -> float:
        """Return the number of evaluated images per image trained on."""
        return self.images / ((self.point + 1) * case.between)


class Course(NamedTuple):
    """A run's accuracy at each evaluation, and its target."""

    method: str
    accuracies: list[float]
    target: float

    def first(self, share: float = 1) -> int:
        """Return the first point that has at least this share of the target. Return 0 if there is none."""
        points = range(len(self.accuracies))
        return first_reaching(points, self.accuracies, share * self.target) or 0


def replay(course: Course, case: Case, expected: int, drawn: torch.Generator) -> Used:
    """Evaluate along a course until an evaluation detects the target, and return the number of images used.

    The target is not expected before the point `expected`.
    """
    images = torch.empty(case.val, 3, 1, 1, dtype=torch.uint8)
    samples = Samples.of(images, torch.ones(case.val, dtype=torch.int64), [case.val])
    target, evaluated = round(course.target * case.val), 0
    needed = LOWEST_LEVEL / 100 * target / case.val
    for point, accuracy in enumerate(course.accuracies):
        right = round(accuracy * case.val)
        images.fill_(0)
        images[:right] = 255
        order = torch.randperm(case.val, generator=drawn)
        measured = measure(Bright(), samples, order, Normalize(Data()), needed, early=point < expected)
        evaluated += measured.images
        if measured.images == case.val and right >= target:
            return Used(evaluated, point)
    return Used(evaluated, len(course.accuracies))


def expected_from(own: Course, courses: Sequence[Course], method: str, share: float = EARLIEST_SHARE) -> int:
    """Return the point before which a target is not expected, from the other runs of the method."""
    others = (each for each in courses if each is not own and each.method == method)
    return int(share * min((each.first(0.99) + 1 for each in others), default=0))


def share_of(courses: Sequence[Course], case: Case) -> dict[str, object]:
    """Replay every course with each kind of evaluation. Return the mean shares of images, and the late detections."""
    drawn = torch.Generator().manual_seed(0)
    used: dict[str, list[float]] = {"full grid": [], "subsets": [], "subsets, ledger": []}
    later = dict.fromkeys(used, 0)
    for course in courses:
        reached = course.first()
        kinds = {
            "full grid": Used((reached + 1) * case.val, reached),
            "subsets": replay(course, case, 0, drawn),
            "subsets, ledger": replay(course, case, expected_from(course, courses, course.method), drawn),
        }
        for kind, found in kinds.items():
            used[kind].append(found.images_each(case))
            later[kind] += found.point > reached
    mean = {kind: round(sum(each) / len(each), 4) for kind, each in used.items()}
    return {"case": case.name, "runs": len(courses), "share of the images": mean, "detected later": later}


def by_earliest_share(courses: Sequence[Course]) -> list[dict[str, object]]:
    """Return the results with other values of `EARLIEST_SHARE`.

    They include the delay for a run that is faster than all earlier runs.
    """
    case, drawn, quicker = EACH_EPOCH[0], torch.Generator().manual_seed(0), [c for c in courses if c.method == QUICKER]
    results: list[dict[str, object]] = []
    for share in SHARES:
        usual = [replay(each, case, expected_from(each, courses, each.method, share), drawn) for each in courses]
        odd = [(c, replay(c, case, expected_from(c, courses, SLOWER, share), drawn)) for c in quicker * REPEATED]
        late = [used.point - course.first() for course, used in odd]
        results.append(
            {
                "share": share,
                "of the images": round(sum(used.images_each(case) for used in usual) / len(usual), 4),
                "quicker than all before: points late, mean": round(sum(late) / len(late), 2),
                "most": max(late),
            }
        )
    return results


def runs_of(path: Path) -> list[dict[str, Any]]:
    """Return the stored runs that have a curve."""
    return [run for run in map(json.loads, path.read_text().splitlines()) if run.get("curve")]


def study(path: Path, an_epoch: int) -> dict[str, object]:
    """Return the results of replaying a study's runs, as recorded and as if their data were larger."""
    runs = runs_of(path)
    first, cost = runs[0]["curve"], runs[0]["record"]["result"]["cost"]
    between = first["iteration"][0] * cost["samples"] // cost["iterations"]

    def replayed(case: Case) -> dict[str, object]:
        step = an_epoch // case.an_epoch
        ends = [(run.get("cell", {}).get("method", ""), run["curve"]["accuracy"][step - 1 :: step]) for run in runs]
        return share_of([Course(method, accuracies, accuracies[-1]) for method, accuracies in ends], case)

    cases = (Case("as recorded", first["images"][0], between, an_epoch), *EACH_EPOCH)
    return {"curves": str(path.relative_to(ROOT)), "cases": [replayed(case) for case in cases]}


def retrainings(path: Path) -> dict[str, object]:
    """Return the results of replaying the runs of a study that reached the accuracy of scratch."""
    runs = runs_of(path)
    cases = [(courses_of(runs, case.an_epoch), case) for case in (*EACH_EPOCH, TWICE)]
    return {
        "curves": f"{path.relative_to(ROOT)}, towards scratch",
        "methods": sorted({course.method for course in cases[0][0]}),
        "cases": [share_of(courses, case) for courses, case in cases],
        "other shares than EARLIEST_SHARE": by_earliest_share(cases[0][0]),
    }


def regimes(path: Path) -> dict[str, object]:
    """Return the results of replaying the regimes' retrainings that reached the scratch run's accuracy on their
    data."""
    runs = runs_of(path)
    scratch = {_data(run): run["final_accuracy"] for run in runs if run["method"] == "scratch"}
    courses = [
        Course(f"{run['regime']}: {run['method']}", [accuracy for _, accuracy in run["curve"]], scratch[_data(run)])
        for run in runs
        if _data(run) in scratch and not run["method"].startswith("scratch")
    ]
    reached = [course for course in courses if max(course.accuracies) >= course.target]
    return {
        "curves": f"{path.relative_to(ROOT)}, towards scratch",
        "cases": [share_of(reached[::step], case) for case, step in DEFAULT_GRID],
    }


def _data(run: dict[str, Any]) -> tuple[str, int, int]:
    return run["regime"], run["seed"], run["drop"]


def courses_of(runs: list[dict[str, Any]], an_epoch: int) -> list[Course]:
    """Return the courses of runs up to the accuracy of scratch, with this number of points per epoch."""
    scratch = {run["cell"]["seed"]: run["curve"] for run in runs if run["cell"]["method"] == "scratch"}
    courses = [
        Course(run["cell"]["method"], resample(run["curve"], own["iteration"][-1], an_epoch), own["accuracy"][-1])
        for run in runs
        if run["curve"] != (own := scratch[run["cell"]["seed"]])
    ]
    return [course for course in courses if max(course.accuracies) >= course.target]


def resample(curve: dict[str, list[float]], iterations: float, points: int) -> list[float]:
    """Return a curve with `points` points per epoch. A hundred epochs have `iterations` iterations."""
    between = iterations / (points * EPOCHS)
    grid = np.arange(between, curve["iteration"][-1] + between / 2, between)
    accuracies: list[float] = np.interp(grid, [0, *curve["iteration"]], [0, *curve["accuracy"]]).tolist()
    return accuracies


def main() -> None:
    """Replay the runs of all files, and report the results."""
    chosen = parser(__doc__).parse_args()
    studies = [study(path, an_epoch) for path, an_epoch in RUNS.items()]
    report({"studies": [*studies, retrainings(RETRAININGS), regimes(REGIMES)]}, chosen.output)


if __name__ == "__main__":
    main()
