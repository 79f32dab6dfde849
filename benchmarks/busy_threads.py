"""Compare thread settings of a training on a machine whose cores other programs use too.

Each measurement is a new process, because libgomp reads its settings when torch is imported. The other programs are
processes that compute without pause. The benchmark alternates between the settings.
"""

import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lib.report import parser, report

SETTINGS = {
    "two threads": {"OMP_NUM_THREADS": "2"},
    "two threads, GOMP_SPINCOUNT=10000": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "10000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
"""Environment variables of a measurement. By default, a thread of libgomp waits actively for several milliseconds."""
WARM_UP = 2
"""Number of first steps that are not counted."""


def compute_without_pause() -> None:
    """Use one core until the process is ended."""
    while True:
        pass


@contextmanager
def other_programs(number: int) -> Iterator[None]:
    """Run processes that each use one core, inside the context."""
    others = [multiprocessing.get_context("spawn").Process(target=compute_without_pause) for _ in range(number)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.join()


def measure_steps(steps: int) -> None:
    """Print the median time of a training step of a thin ResNet-18 on 128 images of 32x32 pixels, in milliseconds."""
    import torch
    from lib.noise import Case, run_of

    from retrain.training.loop import train_step

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    run, taken = run_of(Case(16, 32), "continuous", 512, 1000), []
    for _ in range(steps + WARM_UP):
        began = time.perf_counter()
        train_step(run)
        taken.append(time.perf_counter() - began)
    print(statistics.median(taken[WARM_UP:]) * 1000)


def median_step(setting: str, steps: int) -> float:
    """Return the median time of a step in a new process, in milliseconds."""
    command = [sys.executable, __file__, "--measure", "--steps", str(steps)]
    ran = subprocess.run(command, env={**os.environ, **SETTINGS[setting]}, capture_output=True, text=True, check=True)
    return float(ran.stdout)


def main() -> None:
    """Measure each setting with 0, 1 and 2 other programs running."""
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=3)
    options.add_argument("--steps", type=int, default=8)
    options.add_argument("--measure", action="store_true", help="measure only in this process, without other programs")
    chosen = options.parse_args()
    if chosen.measure:
        measure_steps(chosen.steps)
        return
    figures = {}
    for number in (0, 1, 2):
        taken: dict[str, list[float]] = {setting: [] for setting in SETTINGS}
        with other_programs(number):
            for _ in range(chosen.turns):
                for setting, times in taken.items():
                    times.append(median_step(setting, chosen.steps))
        figures[f"{number} other programs"] = {name: round(statistics.median(each)) for name, each in taken.items()}
    report({"milliseconds of a step": figures}, chosen.output)


if __name__ == "__main__":
    main()
