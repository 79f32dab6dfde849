"""`make demo`: four weekly drops of scikit-learn's scanned digits on a local store.

The demo replaces an earlier demo's store. Each step is a `retrain` command, shown as it runs. The demo exits with 1 if
the runs that continued from a champion saved no iterations.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from retrain.cli.options import open_task
from retrain.experiments.datasets import write_digits
from retrain.records import RunRecord
from retrain.records.ledger import total_savings

TASK = "demo"
console = Console(highlight=False)


class Week(NamedTuple):
    """The drop of one week: a share of all images of some digits, and a sentence about it."""

    share: float
    """Share of all images of a digit. The shares of a digit's weeks add up to 1."""
    digits: str
    comment: str

    def count(self, images: int) -> int:
        """Return the number of a digit's images that land in this week."""
        return round(self.share * images)


WEEKS = (
    Week(0.6, "012345", "Week 1: images of six digits land. There is no champion yet: the run trains from scratch."),
    Week(0.6, "67", "Week 2: two new digits land. From here on, each run continues from the champion."),
    Week(0.4, "01234567", "Week 3: more images of all eight digits land."),
    Week(1.0, "89", "Week 4: the last two digits land."),
)


def write_weeks(folder: Path) -> list[Path]:
    """Write the digits as one image folder for each week, and return these folders."""
    write_digits(folder / "all")
    weeks = [folder / f"week-{number}" for number in range(1, len(WEEKS) + 1)]
    for source in sorted((folder / "all").iterdir()):
        images, start = sorted(source.iterdir()), 0
        for target, week in zip(weeks, WEEKS, strict=True):
            if source.name in week.digits:
                stop = start + week.count(len(images))
                (target / source.name).mkdir(parents=True)
                for image in images[start:stop]:
                    image.rename(target / source.name / image.name)
                start = stop
    return weeks


def main() -> None:
    """Commit a drop each week and retrain on it, and compare the last champion with scratch."""
    argparse.ArgumentParser(prog="python -m retrain.cli.demo", description=__doc__).parse_args()
    opened, store = open_task(TASK)
    shutil.rmtree(Path(opened.store, store.task), ignore_errors=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # sums of floats, and thus all printed numbers, depend on it
    os.environ.setdefault("RETRAIN_CACHE", str(Path(opened.store, "cache")))
    images = Path(opened.store, "digits")
    shutil.rmtree(images, ignore_errors=True)
    for week, folder in zip(WEEKS, write_weeks(images), strict=True):
        print_comment(week.comment)
        retrain("drop", "pack", str(folder), "--task", TASK, "--id", folder.name)
        retrain("run", "--task", TASK)
    print_comment(
        "For comparison: scratch on all drops. A trial is recorded, never promoted, and not counted in the savings."
    )
    retrain("run", "--task", TASK, "--method", "scratch", "--trial")
    print_comment(
        "All runs. `used` is a run's number of iterations. `saved` is the number after which scratch first reaches "
        "its own final accuracy, minus `used`."
    )
    retrain("history", "--task", TASK)
    retrain("status", "--task", TASK)
    print_comment("The same numbers as an HTML page, with the runs behind each number. Open it in a browser.")
    retrain("report", "--task", TASK, "--output", str(Path(opened.store, "report.html")))
    saved, text = summarize(store.ledger.read())
    print_comment(text)
    sys.exit(0 if saved else 1)


def print_comment(text: str) -> None:
    """Print a comment before the next commands."""
    console.print(f"\n[cyan]# {text}[/cyan]", soft_wrap=True)


def retrain(*arguments: str) -> None:
    """Print a command and run it. If it fails, exit with its exit code."""
    console.print(f"[bold]$ retrain {' '.join(arguments)}[/bold]", soft_wrap=True)
    code = subprocess.run([sys.executable, "-m", "retrain", *arguments], check=False).returncode
    if code:
        sys.exit(code)


def summarize(records: list[RunRecord]) -> tuple[bool, str]:
    """Return whether the ledger's net saving is positive, and a sentence with the saving and the accuracies."""
    continued = [record for record in records if record.purpose == "retrain" and record.method == "continuous"]
    savings = total_savings(continued)
    share = f" ({savings.net / savings.baseline:.0%})" if savings.baseline else ""
    text = (
        f"Continuing from champions saved {savings.net:,.0f} of the {savings.baseline:,} iterations{share} that "
        "scratch would take to its accuracy."
    )
    trial = next((record for record in records if record.purpose == "trial"), None)
    if continued and continued[-1].evaluation and trial and trial.evaluation:
        champion, scratch = continued[-1].evaluation, trial.evaluation
        text += f" On {champion.samples:,} test images, the champion's accuracy is {champion.accuracy:.1%}"
        text += f" and scratch's is {scratch.accuracy:.1%}."
    if savings.net <= 0:
        text = "Nothing was saved: training from scratch would have taken fewer iterations. " + text
    return savings.net > 0, text


if __name__ == "__main__":
    main()
