"""Measure whether the memory of a streamed run depends on the size of its data.

`retrain run` streams in one process and decodes in another. Each run has the same number of iterations. The first run
also lists the samples' positions in the drop's shards, and the later runs are trials. `training_mb` is the peak of the
training process, from the kernel's high-water mark. `decoding_mb` is the highest anonymous memory of the decoding
process, measured every 50 ms. It includes a part of the memory that is shared with the parent. The smallest set has
enough held-out samples for the largest batch of an evaluation.
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import yaml
from lib.pictures import ICON, commit, icons
from lib.report import parser, report

from retrain.config.task import Data, Model, Stream, Task, Training
from retrain.store import LocalStore
from retrain.store.task_store import TaskStore

ITERATIONS, BATCH = 40, 64


def family(parent: int) -> set[int]:
    """Return a process and all processes that descend from it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    members = {parent}
    while more := {pid for pid, above in parents.items() if above in members} - members:
        members |= more
    return members


class Peak(NamedTuple):
    """Peak memory of a run in megabytes, of the training process and of the decoding process."""

    training: int
    decoding: int


def private_mb(process: int) -> int:
    """Return the anonymous memory of a process (`Pss_Anon`) in megabytes. Return 0 if the process has just ended."""
    with suppress(OSError):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return next(round(1024 * int(line.split()[1]) / 1e6) for line in lines if line.startswith("Pss_Anon:"))
    return 0


def peak(command: list[str], environment: dict[str, str]) -> Peak:
    """Run a command, and return the peak memory of its process and of its subprocess."""
    decoding = [0]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        decoding += [private_mb(one) for one in family(process.pid) - {process.pid}]
        time.sleep(0.05)
    _, status, usage = ended
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):  # 1: the gate refused the model of this short training
        raise subprocess.CalledProcessError(process.returncode, command)
    return Peak(round(1024 * usage.ru_maxrss / 1e6), max(decoding))


def streamed(count: int, folder: Path, trials: int) -> dict[str, object]:
    """Train on this number of images, once and then in this number of trials. Return the peak memory."""
    task = Task(
        name="grows",
        store=str(folder / "store"),
        data=Data(image_size=ICON, loader="stream", stream=Stream(shuffle_shards=4, cache="12Mi", workers=1)),
        model=Model(options={"width": 8}),
        training=Training(epochs=ITERATIONS * BATCH / (0.8 * count), batch_size=BATCH, evaluate_every=1e6),
    )
    drop = commit(
        task,
        TaskStore(LocalStore(folder / "store"), task.name),
        folder,
        icons(count),
        shard_bytes=400_000,
    )
    path = folder / "grows.yaml"
    path.write_text(yaml.safe_dump(task.model_dump(mode="json")))
    command = [sys.executable, "-m", "retrain", "run", "--task", str(path), "--device", "cpu"]
    environment = {**os.environ, "RETRAIN_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    trial = [*command, "--trial", "--method", "scratch", "--seed"]
    peaks = [peak(command, environment), *(peak([*trial, str(seed)], environment) for seed in range(trials))]
    return {
        "images": count,
        "shard_mb": round(sum(shard.size for shard in drop.shards) / 1e6, 1),
        "training_mb": [each.training for each in peaks],
        "decoding_mb": [each.decoding for each in peaks],
    }


def main() -> None:
    """Measure with each number of images."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, nargs="+", default=[5000, 50_000])
    options.add_argument("--trials", type=int, default=2)
    results, chosen = [], options.parse_args()
    for count in chosen.images:
        with tempfile.TemporaryDirectory(prefix="retrain-grows-") as folder:
            results.append(streamed(count, Path(folder), chosen.trials))
    report({"results": results}, chosen.output)


if __name__ == "__main__":
    main()
