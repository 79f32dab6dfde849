"""How many images evaluation looks at, replayed on the curves of real runs, and whether it sees the target as early.

Every recorded run is taken towards the accuracy that it ended with. At each point of its grid val has as many right
samples as the run had there, in a random order; `measure` says how many images it looked at. The whole grid looks at
all of val at each point. `ledger` is what a run knows of those before it: it expects nothing before 0.6 of the share
of iterations after which the quickest of the other runs came within 99 percent.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from lib.report import ROOT, parser, report
from torch import Tensor, nn

from retrain.config import Data
from retrain.data.augment import Normalize
from retrain.data.samples import Samples
from retrain.planning import EARLIEST_SHARE
from retrain.recipe.speed_up import first_reaching
from retrain.training.evaluate import measure
from retrain.training.stopping import EARLY_RISK, LOWEST_LEVEL, RISK

CPU = torch.device("cpu")


class Bright(nn.Module):
    """A network that is right about bright images alone, all of class 1."""

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        bright = images.mean((1, 2, 3)) > 0
        return torch.stack([~bright, bright], 1).float()


class Case(NamedTuple):
    """A size of val, and how many images are trained on between evaluations."""

    name: str
    val: int
    between: int


DEFAULTS = (
    Case("defaults, 45,000 + 5,000 images", 5_000, 22_500),
    Case("defaults, 1,153,000 + 128,000 images", 128_000, 576_500),
)


class Used(NamedTuple):
    """Images that evaluation looked at, and the point at which it saw the target."""

    images: int
    point: int


def replay(curve: Sequence[float], case: Case, first: int, drawn: torch.Generator) -> Used:
    """Evaluate along a curve to its last accuracy; before the point `first` the target is not expected."""
    images = torch.empty(case.val, 3, 4, 4, dtype=torch.uint8)
    held = Samples.of(images, torch.ones(case.val, dtype=torch.int64), [case.val])
    target, looked_at = round(curve[-1] * case.val), 0
    needed = LOWEST_LEVEL / 100 * target / case.val
    for point, accuracy in enumerate(curve):
        right = round(accuracy * case.val)
        images.fill_(0)
        images[:right] = 255
        order = torch.randperm(case.val, generator=drawn)
        risk = RISK if point >= first else EARLY_RISK
        measured = measure(Bright(), held, order, Normalize(Data()), needed, risk=risk)
        looked_at += measured.images
        if measured.images == case.val and right >= target:
            return Used(looked_at, point)
    return Used(looked_at, len(curve))


def share_of(curves: Sequence[Sequence[float]], case: Case) -> dict[str, object]:
    """Replay every curve by each way of evaluating it."""
    drawn = torch.Generator().manual_seed(0)
    near = [first_reaching(range(len(curve)), curve, 0.99 * curve[-1]) or 0 for curve in curves]
    shares: dict[str, list[float]] = {"whole grid": [], "looks": [], "looks, ledger": []}
    later = 0
    for number, curve in enumerate(curves):
        reached = first_reaching(range(len(curve)), curve, curve[-1]) or 0
        trained = (reached + 1) * case.between
        others = [(point + 1) / len(curve) for point in near[:number] + near[number + 1 :]]
        expected = int(EARLIEST_SHARE * min(others) * len(curve))
        plain, known = replay(curve, case, 0, drawn), replay(curve, case, expected, drawn)
        later += (plain.point > reached) + (known.point > reached)
        shares["whole grid"].append((reached + 1) * case.val / trained)
        shares["looks"].append(plain.images / trained)
        shares["looks, ledger"].append(known.images / trained)
    mean = {name: round(sum(each) / len(each), 4) for name, each in shares.items()}
    return {"case": case.name, "runs": len(curves), "share of the images": mean, "detected later": later}


def study(path: Path) -> dict[str, object]:
    """Replay the runs of one study: as they were, and as if their data were larger."""
    runs = [run for run in map(json.loads, path.read_text().splitlines()) if run.get("curve")]
    curves = [run["curve"]["accuracy"] for run in runs]
    first, cost = runs[0]["curve"], runs[0]["record"]["result"]["cost"]
    between = first["iteration"][0] * cost["samples"] // cost["iterations"]
    cases = (Case("as recorded", first["images"][0], between), *DEFAULTS)
    return {"curves": str(path.relative_to(ROOT)), "cases": [share_of(curves, case) for case in cases]}


def main() -> None:
    """Replay every study whose runs are kept in the repository."""
    options = parser(__doc__).parse_args()
    report({"studies": [study(path) for path in sorted(ROOT.glob("docs/evidence/*/runs.jsonl"))]}, options.output)


if __name__ == "__main__":
    main()
