"""Measure the time that averaged weights and corrected BatchNorm statistics add to a step of a thin ResNet-18.

Two runs alternate, one iteration each. They differ only in the averaging. Other programs on the machine then slow both
down alike.
"""

import statistics
import time
from collections.abc import Callable

from lib.noise import Case, run_of
from lib.report import parser, report

from retrain.config.task import PowerAverage, Training
from retrain.recipe.averaging import AveragedNetwork
from retrain.training.loop import train_step
from retrain.training.setup import Run

SAMPLES = 2000
WARM_UP = 5
CORRECTED = 200
"""Number of first iterations of a run in which BatchNorm's statistics are corrected (at the default momentum)."""

PAIRS = {Case(16, 32): 40, Case(16, 16): 120}
"""Number of iterations of each run, by case."""


def seconds(step: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def compare(case: Case, pairs: int) -> dict[str, object]:
    """Return the times of a step with and without averaging, from iteration `CORRECTED` on. Both runs alternate."""
    plain, averaged = (_run(case) for _ in range(2))
    averaged.average = AveragedNetwork(PowerAverage(), averaged.network)
    turns = [(seconds(lambda: train_step(averaged)), seconds(lambda: train_step(plain))) for _ in range(pairs)]
    step = statistics.median(without for _, without in turns[WARM_UP:])
    update = statistics.median(seconds(lambda: averaged.average.add(averaged.average.share(1000))) for _ in range(200))
    fresh = run_of(case, "scratch", SAMPLES, 1)
    correction = statistics.median(seconds(lambda: _correct(fresh)) for _ in range(100))
    return {
        "case": case.name,
        "pairs": pairs - WARM_UP,
        "step_ms": round(1e3 * step, 3),
        "median_of_ratios": round(statistics.median(a / b for a, b in turns[WARM_UP:]), 4),
        "update_ms": round(1e3 * update, 4),
        "update_percent_of_step": round(100 * update / step, 3),
        "correction_ms": round(1e3 * correction, 4),
        "correction_percent_of_its_first_steps": round(100 * correction / step, 3),
    }


def _run(case: Case) -> Run:
    run = run_of(case, "scratch", SAMPLES, 10_000, Training(save_seconds=1e9))
    run.progress.iteration = CORRECTED
    return run


def _correct(run: Run) -> None:
    run.statistics.before_forward(0)
    run.statistics.after_backward()


def main() -> None:
    """Compare every case."""
    options = parser(__doc__).parse_args()
    report({"results": [compare(case, pairs) for case, pairs in PAIRS.items()]}, options.output)


if __name__ == "__main__":
    main()
