"""`make demo`: the main job on the embedded store, with scikit-learn's scanned digits.

Every step is a command that its user could type, shown as it runs. Exits with 1 if the continuous run missed its
target.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

from retrain.cli.options import open_task

TASK = "demo"
console = Console(highlight=False)


def main() -> None:
    """Two drops land, one after the other; the second is trained by continuing from the first one's model."""
    opened, store = open_task(TASK)
    shutil.rmtree(Path(opened.store, store.task), ignore_errors=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # as many on every machine: sums of floats depend on it
    os.environ.setdefault("RETRAIN_CACHE", str(Path(opened.store, "cache")))
    with tempfile.TemporaryDirectory(prefix="retrain-digits-") as folder:
        write_digits(Path(folder, "digits"))
        stage = ("drop", "pack", str(Path(folder, "digits")), "--task", TASK, "--classes", "7+3", "--part")
        say("Monday: images of seven of the ten digits land.")
        retrain(*stage, "1")
        say("There is no model yet: training from scratch.")
        retrain("run", "--task", TASK)
        say("A week later the other three digits land.")
        retrain(*stage, "2")
    say("What would scratch reach on all ten? This calibrates the baseline, so that the target is measured.")
    retrain("baseline", "--task", TASK)
    say("For comparison: simply going on from the old model. A trial is recorded and never promoted.")
    retrain("run", "--task", TASK, "--method", "naive", "--trial")
    say("The main job: continue from the old model by the recipe, and stop when it is as good as scratch.")
    retrain("run", "--task", TASK)
    say("All methods. Iterations saved are against the baseline's first time at that accuracy.")
    retrain("history", "--task", TASK)
    retrain("status", "--task", TASK)
    say("The same as a page, every figure down to its run: open it in a browser.")
    retrain("report", "--task", TASK, "--output", str(Path(opened.store, "report.html")))
    sys.exit(0 if reached_target() else 1)


def write_digits(folder: Path) -> None:
    """Write 1,797 scanned digits, 8x8 pixels, as an image folder: `<digit>/<number>.png`."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / 16).astype(np.uint8)).save(path)


def say(why: str) -> None:
    """Print what comes next, and why."""
    console.print(f"\n[cyan]# {why}[/cyan]")


def retrain(*arguments: str) -> None:
    """Show a command and run it; if it fails, the demo ends as it did."""
    console.print(f"[bold]$ retrain {' '.join(arguments)}[/bold]", soft_wrap=True)
    code = subprocess.run([sys.executable, "-m", "retrain", *arguments], check=False).returncode
    if code:
        sys.exit(code)


def reached_target() -> bool:
    """Say whether the continuous run is in the ledger with its target reached."""
    _, store = open_task(TASK)
    return any(run.method == "continuous" and run.outcome == "reached" for run in store.ledger.read())


if __name__ == "__main__":
    main()
