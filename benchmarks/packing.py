"""Measure `retrain drop pack`, compared with a plain script that decodes every image and writes tars.

The programs alternate. Each packs the same archives of small images in a separate process. The times include the start
of the process.
"""

import io
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from lib.report import ROOT, parser, report
from PIL import Image

IN_ARCHIVE, CLASSES, SIDE = 10_000, 100, 32
TASK = "name: icons\nstore: store\ndata: {image_size: 32}\n"


def write_archives(folder: Path, count: int) -> None:
    """Write archives `train-*.tar` of random images in class folders. All images are different."""
    random = np.random.default_rng(0)
    for first in range(0, count, IN_ARCHIVE):
        with tarfile.open(folder / f"train-{first // IN_ARCHIVE}.tar", "w") as archive:
            for number in range(first, min(first + IN_ARCHIVE, count)):
                pixels = Image.fromarray(random.integers(0, 256, (SIDE, SIDE // 2, 3), np.uint8)).resize((SIDE, SIDE))
                buffer = io.BytesIO()
                pixels.save(buffer, "PNG")
                _add(archive, f"class-{number % CLASSES:03d}/{number:06d}.png", buffer.getvalue())


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def write_plainly(source: Path, target: Path) -> None:
    """Decode every image of the archives, and write it with its class into one tar file."""
    with tarfile.open(target, "w") as shard:
        for path in sorted(source.glob("*.tar")):
            with tarfile.open(path) as archive:
                for member in archive:
                    file = archive.extractfile(member)
                    assert file
                    data = file.read()
                    np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
                    name, _, stem = member.name.removesuffix(".png").partition("/")
                    _add(shard, f"{name}-{stem}.cls", name.encode())
                    _add(shard, f"{name}-{stem}.png", data)


def measure(command: list[str], folder: Path, checkout: Path) -> tuple[float, float]:
    """Return the wall and the processor time of a command in seconds."""
    shutil.rmtree(folder / "store", ignore_errors=True)
    environment = {**os.environ, "PYTHONPATH": f"{checkout}{os.pathsep}{Path(__file__).parent}"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Alternate between all programs."""
    options = parser(__doc__)
    options.add_argument("--samples", type=int, default=10_000)
    options.add_argument("--turns", type=int, default=3)
    options.add_argument(
        "--archives", type=Path, help="folder of further archives train-*.tar of class/name.png to pack"
    )
    options.add_argument("--before", type=Path, help="checkout of an earlier version, also measured")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "images").mkdir()
        (folder / "icons.yaml").write_text(TASK)
        write_archives(folder / "images", chosen.samples)
        for number, path in enumerate(sorted(chosen.archives.glob("train-*.tar")) if chosen.archives else ()):
            shutil.copy(path, folder / f"images/train-{1000 + number}.tar")
        pack = [sys.executable, "-m", "retrain", "drop", "pack", "images", "--task", "icons.yaml"]
        plain = "import packing, pathlib; packing.write_plainly(pathlib.Path('images'), pathlib.Path('plain.tar'))"
        commands = {
            "pack": ([*pack, "--label-from", "folder"], ROOT),
            "plain": ([sys.executable, "-c", plain], ROOT),
            **({"before": (pack, chosen.before.resolve())} if chosen.before else {}),
        }
        turns = [
            {name: measure(command, folder, checkout) for name, (command, checkout) in commands.items()}
            for _ in range(chosen.turns)
        ]
    report({"results": [summary(turns, name) for name in commands]}, chosen.output)


def summary(turns: list[dict[str, tuple[float, float]]], name: str) -> dict[str, object]:
    """Return the median times of one program, and the time of `pack` divided by the program's time."""
    wall, cpu = ([turn[name][clock] for turn in turns] for clock in (0, 1))
    ratios = ([turn["pack"][clock] / turn[name][clock] for turn in turns] for clock in (0, 1))
    return {
        "command": name,
        "wall_s": round(statistics.median(wall), 2),
        "cpu_s": round(statistics.median(cpu), 2),
        **{
            f"pack_takes_{clock}": round(statistics.median(each), 3)
            for clock, each in zip(("wall", "cpu"), ratios, strict=True)
        },
    }


if __name__ == "__main__":
    main()
