"""Run `python -m retrain.experiments.regimes run` or `report`."""

import argparse
import logging
import os
import sys
from pathlib import Path

from retrain.errors import UserError
from retrain.experiments.regimes.settings import load_regimes


def main(arguments: list[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    options = _parser().parse_args(arguments)
    try:
        if options.command == "run":
            from retrain.experiments.regimes.runner import run_suite

            regimes = load_regimes(options.names)
            new = run_suite(regimes, options.seeds, options.out, options.root, options.jobs, options.variants)
            print(f"{new} new results in {options.out}")
        else:
            from retrain.experiments.regimes.page import write_page

            print(write_page(options.folder, options.output, load_regimes()))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m retrain.experiments.regimes", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        help="Run all trainings that have no result yet. You can stop the command at any time and start it again.",
    )
    run.add_argument("names", nargs="*", metavar="NAME", help="Names of regimes (default: all).")
    run.add_argument(
        "--seeds", type=_seeds, default=None, help="Seeds, such as 0,1,2 (default: the seeds in each regime's file)."
    )
    run.add_argument("--out", type=Path, required=True, help="Folder of the results.")
    run.add_argument(
        "--root",
        type=Path,
        default=Path(os.environ.get("RETRAIN_DATA", "data")),
        help="Folder of the data sets (default: $RETRAIN_DATA, or data).",
    )
    run.add_argument("--jobs", type=int, default=1, help="Number of processes, each with one thread.")
    run.add_argument("--variants", action="store_true", help="Also run the ablation's variants.")
    report = commands.add_parser("report", help="Write the page and its picture from the results.")
    report.add_argument("folder", type=Path, help="Folder of the results.")
    report.add_argument("--output", type=Path, default=Path("docs/evidence/regimes.md"), help="File of the page.")
    return parser


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(int(seed) for seed in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
