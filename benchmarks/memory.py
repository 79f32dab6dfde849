"""Measure the peak memory of training on data decoded in memory, beyond the memory that importing torch takes.

`retrain run` is a separate process, and the kernel reports its peak memory. The benchmark measures it twice: while the
process decodes the drop into the cache, and with a warm cache. The source is a folder of tars train-0.tar, ...,
test-0.tar with images named class/name.png, for example CIFAR-100. Without a source, the benchmark uses
random images of the same number and size as CIFAR-100's.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from lib.report import parser, report
from PIL import Image

TASK = Path(__file__).parents[1] / "tasks" / "cifar100-mini.yaml"
ITERATIONS_AS_EPOCHS = 0.05
"""Epochs of a training: eighteen iterations with their evaluations. A longer training needs no more memory."""


def peak(command: list[str], environment: dict[str, str]) -> int:
    """Run a command and return its peak memory, in bytes."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_maxrss * 1024


def write_noise(folder: Path) -> Path:
    """Write 50,000 training and 10,000 test images of 32x32 random pixels in 100 classes. Return the folder."""
    random = np.random.default_rng(0)
    for name, count in (("train-0", 50_000), ("test-0", 10_000)):
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for number in range(count):
                buffer = io.BytesIO()
                Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG")
                member = tarfile.TarInfo(f"class-{number % 100}/{number}.png")
                member.size = buffer.tell()
                buffer.seek(0)
                tar.addfile(member, buffer)
    return folder


def measure(source: Path, folder: Path) -> dict[str, object]:
    """Pack the source and train on all of it twice. Return the peak memory of each process."""
    environment = {**os.environ, "RETRAIN_CACHE": str(folder / "cache")}
    retrain = [sys.executable, "-m", "retrain"]
    common = ["--task", str(TASK), "--set", f"store={folder / 'store'}"]
    run = [*retrain, "run", *common, "--device", "cpu", "--set", f"training.epochs={ITERATIONS_AS_EPOCHS}"]
    figures = {
        "importing torch": peak([sys.executable, "-c", "import torch"], environment),
        "importing retrain": peak([sys.executable, "-c", "import retrain.pipeline.stages"], environment),
        "packing": peak([*retrain, "drop", "pack", str(source), *common], environment),
        "training, cold cache": peak(run, environment),
        "training, warm cache": peak([*run, "--trial", "--method", "scratch", "--seed", "1"], environment),
    }
    base = figures["importing torch"]
    beyond = {what: round((size - base) / 1e6) for what, size in figures.items()}
    return {
        "source": source.name,
        "peak_mb": {what: round(size / 1e6) for what, size in figures.items()},
        "beyond_torch_mb": beyond,
    }


def main() -> None:
    """Measure in a temporary folder, and report the results."""
    options = parser(__doc__)
    options.add_argument("source", type=Path, nargs="?", help="folder of tars")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="retrain-memory-") as folder:
        source = chosen.source or write_noise(Path(folder))
        report(measure(source, Path(folder)), chosen.output)


if __name__ == "__main__":
    main()
