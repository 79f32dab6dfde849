"""Two processes under torchrun beside one, a thread each: seconds an iteration, and bytes that they exchange in one.

Each is `retrain run`, a trial from scratch on the digits in a ResNet-18 of width 16, as they are and scaled to 32x32.
They take turns, and the time is that of the run's record, evaluation left out. Bytes are counted where they are handed
to torch's collectives: gradients by the network's parameters, the index by the batch.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from lib.report import parser, report

from retrain import models
from retrain.demo import write_digits
from retrain.tasks import load_task

TASK = Path(__file__).parents[1] / "tasks" / "digits.yaml"
SIZES = (8, 32)
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def seconds(processes: int, arguments: list[str], environment: dict[str, str]) -> float:
    """Train once; return wall seconds an iteration."""
    launcher = [*TORCHRUN, str(processes)] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "retrain", "run", "--json", *arguments]
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    cost = json.loads(ended.stdout)["result"]["cost"]
    return float(cost["device_seconds"]) / processes / int(cost["iterations"])


def exchanged() -> dict[str, int]:
    """Bytes an iteration that each process hands over."""
    task = load_task(str(TASK))
    network = models.build(task.model, 10, task.data.image_size, seed=0)
    gradients = sum(4 * parameter.numel() for parameter in network.parameters())
    return {"gradients": gradients, "index": 2 * 4 * task.training.batch_size, "wishes": 2}


def measure(folder: Path, rounds: int, epochs: float) -> dict[str, object]:
    """Pack the digits, and compare in each size."""
    environment = {**os.environ, "RETRAIN_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    common = ["--task", str(TASK), "--set", f"store={folder / 'store'}"]
    write_digits(folder / "digits")
    pack = [sys.executable, "-m", "retrain", "drop", "pack", str(folder / "digits"), *common]
    subprocess.run(pack, check=True, stdout=subprocess.DEVNULL)
    trial = [*common, "--device", "cpu", "--trial", "--method", "scratch", "--set", f"training.epochs={epochs}"]
    speeds = {
        f"{size}x{size}": compare(rounds, [*trial, "--set", f"data.image_size={size}"], environment) for size in SIZES
    }
    return {"pairs": rounds, **speeds, "bytes an iteration": exchanged()}


def compare(rounds: int, trial: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Let one process and two take turns."""
    pairs = []
    for seed in range(1, rounds + 1):
        one = seconds(1, [*trial, "--seed", str(2 * seed)], environment)
        two = seconds(2, [*trial, "--seed", str(2 * seed + 1)], environment)
        pairs.append((one, two))
    return {
        "one process, ms an iteration": round(1e3 * statistics.median(one for one, _ in pairs), 1),
        "two processes, ms an iteration": round(1e3 * statistics.median(two for _, two in pairs), 1),
        "speed-up, median of pairs": round(statistics.median(one / two for one, two in pairs), 2),
    }


def main() -> None:
    """Measure."""
    options = parser(__doc__)
    options.add_argument("--pairs", type=int, default=2)
    options.add_argument("--epochs", type=float, default=12)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="retrain-processes-") as folder:
        report(measure(Path(folder), chosen.pairs, chosen.epochs), chosen.output)


if __name__ == "__main__":
    main()
