"""Print a benchmark's results as JSON, with the command, commit and machine."""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that every benchmark has."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--output", type=Path, help="file to write the JSON to, in addition to standard output")
    return options


def report(figures: Mapping[str, object], output: Path | None) -> None:
    """Print the results, and also write them to `output` if it is a path."""
    text = json.dumps({**figures, **_origin()}, indent=2)
    print(text)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text + "\n")


def _origin() -> dict[str, object]:
    return {
        "command": " ".join(["python", os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]]),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short=12", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else ""),
        "machine": {
            "cpu": _cpu(),
            "vectors": torch.backends.cpu.get_cpu_capability(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if platform.system() == "Linux" else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
