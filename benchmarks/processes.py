"""Compare two processes under torchrun with one process: seconds per iteration, and exchanged bytes.

Each process has one thread.

Two independent trainings at the same time show which speed-up the machine allows. Each of them is one process. It
trains on half a batch for the same number of iterations, in a separate store, because a task's lease lets only one
process work at a time. The slower of the two counts, because under torchrun the faster process would have to wait for
it.

Each training is `retrain run`: a trial from scratch on the digits in a ResNet-18 of width 16, at 8x8 and scaled to
32x32. The trainings alternate. The time comes from the run's record and excludes evaluation. The benchmark counts the
bytes that are passed to torch's collectives. The gradients depend on the number of parameters, and the counters of the
learning-speed index on the batch size.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from lib.report import parser, report

from retrain.config.loading import load_task
from retrain.experiments.datasets import write_digits
from retrain.models import factory

TASK = Path(__file__).parents[1] / "tasks" / "digits.yaml"
BATCH = load_task(str(TASK)).training.batch_size
SIZES = (8, 32)
RETRAIN = ["-m", "retrain"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


class Trials(NamedTuple):
    """Trials with a number of epochs on images of one size. Both stores have the same drops."""

    stores: tuple[Path, Path]
    environment: dict[str, str]
    epochs: float
    image_size: int

    def train_in_one_process(self, seed: int) -> float:
        """Train in one process, and return the seconds per iteration."""
        return self._seconds(RETRAIN, self.stores[0], BATCH, self.epochs, seed)

    def train_in_two_ranks(self, seed: int) -> float:
        """Train in two ranks, and return the seconds per iteration."""
        return self._seconds([*TORCHRUN, *RETRAIN], self.stores[0], BATCH, self.epochs, seed) / 2

    def train_separately(self, seeds: tuple[int, int]) -> float:
        """Train twice at the same time on half a batch each, with half the epochs for the same number of iterations.

        Return the seconds per iteration of the slower training.
        """

        def half(store: Path, seed: int) -> float:
            return self._seconds(RETRAIN, store, BATCH // 2, self.epochs / 2, seed)

        with ThreadPoolExecutor(2) as both:
            return max(both.map(half, self.stores, seeds))

    def _seconds(self, program: list[str], store: Path, batch: int, epochs: float, seed: int) -> float:
        """Train once, and return the device seconds per iteration, added over all processes."""
        settings = {
            "store": store,
            "data.image_size": self.image_size,
            "training.batch_size": batch,
            "training.epochs": epochs,
        }
        chosen = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        trial = ["--device", "cpu", "--trial", "--method", "scratch", "--seed", str(seed), "--json"]
        command = [sys.executable, *program, "run", "--task", str(TASK), *trial, *chosen]
        ended = subprocess.run(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
        )
        cost = json.loads(ended.stdout)["result"]["cost"]
        return float(cost["device_seconds"]) / int(cost["iterations"])


def count_exchanged_bytes() -> dict[str, int]:
    """Return the bytes that each process exchanges in an iteration, by kind. Votes are requests to save or stop."""
    task = load_task(str(TASK))
    network = factory.build_network(task.model, 10, task.data.image_size, seed=0)
    gradients = sum(4 * parameter.numel() for parameter in network.parameters())
    return {"gradients": gradients, "index": 2 * 4 * BATCH, "votes": 2}


def measure(folder: Path, turns: int, epochs: float) -> dict[str, object]:
    """Pack the digits, and return the times and ratios for each image size."""
    environment = {**os.environ, "RETRAIN_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    stores = (folder / "store", folder / "another store")
    write_digits(folder / "digits")
    for store in stores:
        pack = [sys.executable, *RETRAIN, "drop", "pack", str(folder / "digits"), "--task", str(TASK)]
        subprocess.run([*pack, "--set", f"store={store}"], check=True, stdout=subprocess.DEVNULL)
    speeds = {f"{size}x{size}": compare(turns, Trials(stores, environment, epochs, size)) for size in SIZES}
    return {"turns": turns, **speeds, "bytes an iteration": count_exchanged_bytes()}


def compare(turns: int, trials: Trials) -> dict[str, float]:
    """Alternate one process, two ranks and two independent processes. Return their times and the ratios of the times.

    The seeds differ, because trials with the same plan are one run.
    """
    seeds = range(0, 4 * turns, 4)
    taken = [
        (
            trials.train_in_one_process(seed),
            trials.train_in_two_ranks(seed + 1),
            trials.train_separately((seed + 2, seed + 3)),
        )
        for seed in seeds
    ]
    one, two, separate = (round(1e3 * statistics.median(each), 1) for each in zip(*taken, strict=True))
    return {
        "one process, ms an iteration": one,
        "two processes, ms an iteration": two,
        "two that share nothing, ms an iteration": separate,
        "speed-up, median of turns": round(statistics.median(one / two for one, two, _ in taken), 2),
        "what the machine allows": round(statistics.median(one / separate for one, _, separate in taken), 2),
        "share of it that two processes reach": round(
            statistics.median(separate / two for _, two, separate in taken), 2
        ),
    }


def main() -> None:
    """Run the measurements, and report them."""
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=2)
    options.add_argument("--epochs", type=float, default=12)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="retrain-processes-") as folder:
        report(measure(Path(folder), chosen.turns, chosen.epochs), chosen.output)


if __name__ == "__main__":
    main()
