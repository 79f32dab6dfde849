"""Measure the time from `retrain run` to the end of its first iteration, compared with `import torch` alone.

Both are separate processes and alternate. The drop is in the cache. The run has one iteration and an evaluation of 348
images of 8x8 pixels. It reports the end of the iteration on standard error. Until then, the kernel counts the processor
time of the process. The benchmark also lists the imported packages.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from lib.report import parser, report
from lib.spent import processor_seconds

from retrain.experiments.datasets import write_digits

TASK = Path(__file__).parents[1] / "tasks" / "digits.yaml"


class Start(NamedTuple):
    """Seconds until a process has printed a text."""

    wall: float
    cpu: float


def time_until(command: list[str], text: str, environment: dict[str, str]) -> Start:
    """Start a process, return the time until it has printed a text on standard error, and wait for its end."""
    began = time.perf_counter()
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if text in line:
                start = Start(time.perf_counter() - began, processor_seconds(child.pid))
                child.stderr.read()
                return start
    raise RuntimeError(f"{' '.join(command)} never printed {text!r}")


def time_imports(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Return the import time of each top-level package that a command needs, in ms.

    It includes only the package's own files.
    """
    timed = [sys.executable, "-X", "importtime", *command[1:]]
    lines = subprocess.run(timed, env=environment, capture_output=True, text=True, check=True).stderr.splitlines()
    packages: dict[str, float] = {}
    for line in lines:
        if line.startswith("import time:") and "package" not in line:
            own, _, name = line.removeprefix("import time:").split("|")
            package = name.strip().partition(".")[0]
            packages[package] = packages.get(package, 0) + int(own) / 1000
    largest = sorted(packages.items(), key=lambda item: -item[1])[:12]
    return {name: round(milliseconds) for name, milliseconds in largest}


def measure(folder: Path, rounds: int) -> dict[str, object]:
    """Return the times of trials of one iteration on the digits and of bare imports. The two alternate."""
    environment = {**os.environ, "RETRAIN_CACHE": str(folder / "cache")}
    retrain = [sys.executable, "-m", "retrain"]
    common = ["--task", str(TASK), "--set", f"store={folder / 'store'}"]
    write_digits(folder / "digits")
    subprocess.run([*retrain, "drop", "pack", str(folder / "digits"), *common], check=True, stdout=subprocess.DEVNULL)
    trial = [*retrain, "run", *common, "--device", "cpu", "--trial", "--method", "scratch"]
    once = [*trial, "--set", "training.epochs=0.1", "--seed"]
    import_torch = [sys.executable, "-c", "import sys, torch; print('imported', file=sys.stderr)"]
    time_until([*once, "0"], "after 1 iteration", environment)
    runs, imports = list[Start](), list[Start]()
    for seed in range(1, rounds + 1):
        runs.append(time_until([*once, str(seed)], "after 1 iteration", environment))
        imports.append(time_until(import_torch, "imported", environment))
    return {
        "rounds": rounds,
        "until the first iteration": median(runs),
        "import torch": median(imports),
        "wall ratio": round(
            statistics.median(run.wall / bare.wall for run, bare in zip(runs, imports, strict=True)), 2
        ),
        "imported, ms": time_imports([*once, "1000"], environment),
    }


def median(starts: list[Start]) -> dict[str, float]:
    """Return medians and minima, in seconds."""
    wall, cpu = [start.wall for start in starts], [start.cpu for start in starts]
    return {
        "wall": round(statistics.median(wall), 2),
        "wall, least": round(min(wall), 2),
        "cpu": round(statistics.median(cpu), 2),
    }


def main() -> None:
    """Time the starts, and print their medians."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=7)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="retrain-startup-") as folder:
        report(measure(Path(folder), chosen.rounds), chosen.output)


if __name__ == "__main__":
    main()
