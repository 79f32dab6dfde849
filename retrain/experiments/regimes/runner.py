"""Run the suite: several sequences in parallel, each in its own process with one thread.

A sequence is one regime with one seed: all its drops, one after the other.
"""

import logging
import os
import subprocess
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

from retrain.errors import StudyError
from retrain.experiments.regimes.methods import VARIANTS
from retrain.experiments.regimes.settings import Regime
from retrain.utils import processes

log = logging.getLogger("retrain")


def run_suite(
    regimes: Sequence[Regime], seeds: Collection[int] | None, out: Path, root: Path, jobs: int, with_variants: bool
) -> int:
    """Run every regime with every seed, and return the number of new results.

    If a sequence fails, the others continue. In this case the function raises `StudyError` at the end.
    """
    out.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # read by torch in the worker processes
    sequences = [(regime, seed) for regime in regimes for seed in seeds or regime.seeds]
    sequences.sort(key=lambda sequence: sequence[1])  # the first seed of every regime, then the second
    commit, variants = read_commit(), list(VARIANTS) if with_variants else []
    with ProcessPoolExecutor(jobs, processes.SPAWN, initializer=_init_worker) as pool:
        pending = {
            pool.submit(run_sequence, *sequence, root, out, commit, variants): sequence for sequence in sequences
        }
        return _collect(pending)


def _collect(pending: dict["Future[int]", tuple[Regime, int]]) -> int:
    new, failed = 0, []
    for future in as_completed(pending):
        regime, seed = pending[future]
        try:
            new += future.result()
            log.info("%s, seed %d: all runs have ended", regime.name, seed)
        except Exception as error:  # a training may raise anything; the other sequences continue
            log.error("%s, seed %d failed: %s: %s", regime.name, seed, type(error).__name__, error)
            failed.append(f"{regime.name} seed {seed}")
    if failed:
        raise StudyError(f"{len(failed)} sequences failed: {', '.join(failed)}; run the command again to resume them")
    return new


def run_sequence(regime: Regime, seed: int, root: Path, out: Path, commit: str, variants: Sequence[str]) -> int:
    """Run one sequence in this process, and return the number of new results."""
    from retrain.experiments.regimes.sequence import DropSequence, SuiteContext

    suite = SuiteContext(root, out, commit)
    return DropSequence(regime, seed, suite, {name: VARIANTS[name] for name in variants}).run()


def _init_worker() -> None:
    import torch

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    processes.exit_with_parent()


def read_commit() -> str:
    """Return the commit of the code, with `-dirty` if files differ from it; `unknown` outside of a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
