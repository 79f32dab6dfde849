"""Memory of a streamed run while its data grows: that of all its processes together, at its largest.

`retrain run` streams in a process of its own, with one that decodes, for as many iterations each time: once as it
catalogues the drop, and once more as a trial under an allocator that gives back at once what is freed (glibc's, kept
from raising its threshold for mmap), so that only what is in use counts. Every 50 ms the kernel is asked what is held
(Pss: a page that several processes share counts once). `anonymous` is what the processes wrote themselves; the rest are
files in the page cache: libraries, shards. The smallest set has enough held-out samples for an evaluation's largest
batch.
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

from retrain.config import Data, Model, Stream, Task, Training
from retrain.store import LocalStore

ITERATIONS, BATCH = 40, 64
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 20)}


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


class Held(NamedTuple):
    """Megabytes that a process and its descendants hold."""

    everything: int
    anonymous: int


def held(parent: int) -> Held:
    """Ask the kernel."""
    totals = dict.fromkeys(("Pss", "Pss_Anon"), 0)
    for pid in family(parent):
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            found = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
            totals = {name: total + found[name] for name, total in totals.items()}
    return Held(*(round(1024 * total / 1e6) for total in totals.values()))


def peak(command: list[str], environment: dict[str, str]) -> Held:
    """Run a command and return the most that it and its descendants held."""
    seen = [Held(0, 0)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            seen.append(held(process.pid))
            time.sleep(0.05)
    if process.returncode not in (0, 1):  # 1: the gate refused what so short a training yields
        raise subprocess.CalledProcessError(process.returncode, command)
    return Held(*map(max, zip(*seen, strict=True)))


def streamed(count: int, folder: Path) -> dict[str, object]:
    """Train on so many images, twice."""
    task = Task(
        name="grows",
        store=str(folder / "store"),
        data=Data(image_size=ICON, loader="stream", stream=Stream(shuffle_shards=4, cache="12Mi", workers=1)),
        model=Model(options={"width": 8}),
        training=Training(epochs=ITERATIONS * BATCH / (0.8 * count), batch_size=BATCH, evaluate_every=1e6),
    )
    drop = commit(task, LocalStore(folder / "store"), folder, icons(count), shard_bytes=400_000)
    path = folder / "grows.yaml"
    path.write_text(yaml.safe_dump(task.model_dump(mode="json")))
    command = [sys.executable, "-m", "retrain", "run", "--task", str(path), "--device", "cpu"]
    environment = {**os.environ, "RETRAIN_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    first = peak(command, environment)
    again = peak([*command, "--trial", "--method", "scratch", "--seed", "1"], environment | GIVES_BACK)
    return {
        "images": count,
        "shard_mb": round(sum(shard.size for shard in drop.shards) / 1e6, 1),
        "first_mb": first._asdict(),
        "in_use_mb": again._asdict(),
    }


def main() -> None:
    """Let the data grow."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, nargs="+", default=[5000, 50_000])
    results = []
    chosen = options.parse_args()
    for count in chosen.images:
        with tempfile.TemporaryDirectory(prefix="retrain-grows-") as folder:
            results.append(streamed(count, Path(folder)))
    report({"results": results}, chosen.output)


if __name__ == "__main__":
    main()
