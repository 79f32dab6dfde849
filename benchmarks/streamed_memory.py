"""Memory of a streamed run while its data grows tenfold: that of all its processes, summed, at its largest.

`retrain run` streams in a process of its own, with one that decodes, for as many iterations each time. What it holds is
read from /proc every 20 ms. Pages that processes share are counted for each, so the sum is above what is really held.
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import yaml
from lib.pictures import SIZE, commit
from lib.report import parser, report

from retrain.config import Data, Model, Stream, Task, Training
from retrain.store import LocalStore

ITERATIONS, BATCH = 40, 64
PAGE = os.sysconf("SC_PAGE_SIZE")


def family(parent: int) -> set[int]:
    """A process and all that descend from it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    members = {parent}
    while more := {pid for pid, above in parents.items() if above in members} - members:
        members |= more
    return members


def held(parent: int) -> int:
    """Resident bytes of a process and its descendants."""
    total = 0
    for pid in family(parent):
        with suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    return total


def peak(command: list[str], environment: dict[str, str]) -> int:
    """Run a command and return the most that it and its descendants held."""
    most = 0
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, held(process.pid))
            time.sleep(0.02)
    if process.returncode not in (0, 1):  # 1: the gate refused what so short a training yields
        raise subprocess.CalledProcessError(process.returncode, command)
    return most


def streamed(count: int, folder: Path) -> dict[str, int]:
    """Train on so many images."""
    task = Task(
        name="grows",
        store=str(folder / "store"),
        data=Data(image_size=SIZE, loader="stream", stream=Stream(shuffle_shards=4, cache="12Mi", workers=1)),
        model=Model(options={"width": 8}),
        training=Training(epochs=ITERATIONS * BATCH / (0.8 * count), batch_size=BATCH, evaluate_every=1e6),
    )
    drop = commit(task, LocalStore(folder / "store"), folder, count, shard_bytes=400_000)
    path = folder / "grows.yaml"
    path.write_text(yaml.safe_dump(task.model_dump(mode="json")))
    command = [sys.executable, "-m", "retrain", "run", "--task", str(path), "--device", "cpu"]
    environment = {**os.environ, "RETRAIN_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    most = peak(command, environment)
    return {"images": count, "shard_bytes": sum(shard.size for shard in drop.shards), "peak_mb": round(most / 1e6)}


def main() -> None:
    """Compare a data set with one of ten times its size."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=3000)
    chosen = options.parse_args()
    results = []
    for factor in (1, 10):
        with tempfile.TemporaryDirectory(prefix="retrain-grows-") as folder:
            results.append(streamed(factor * chosen.images, Path(folder)))
    ratio = round(results[1]["peak_mb"] / results[0]["peak_mb"], 3)
    report({"results": results, "memory_ratio": ratio}, chosen.output)


if __name__ == "__main__":
    main()
