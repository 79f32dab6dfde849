"""Write and check a study's evidence: its page, and next to it the runs, a table and pictures."""

import subprocess
from pathlib import Path

from retrain.errors import StudyError
from retrain.experiments import kept_runs, plots
from retrain.experiments.catalogue import BEGIN, with_agreement
from retrain.experiments.files import all_studies, load_study
from retrain.experiments.grid import all_cells
from retrain.experiments.kept_runs import EndedRun, KeptRuns, grid_digest
from retrain.experiments.page import comma_separated, page
from retrain.experiments.settings import Study
from retrain.experiments.statistics import groups
from retrain.utils.text import pluralize


def write_report(study: Study, runs: list[EndedRun], evidence: Path, store: str) -> Path:
    """Write NAME.md, and NAME/ with runs.jsonl, table.csv and pictures, and return the page's path.

    Raises `StudyError` if `store`, from which the runs were read, has no run of the study or fewer than `runs.jsonl`.
    Runs of `runs.jsonl` that are no longer in the study's grid do not count.
    """
    _check_complete(study, len(runs), evidence / study.name, store)
    kept_runs.write_kept(KeptRuns(grid_digest(study), commit(), tuple(runs)), evidence / study.name)
    return rewrite_report(study, evidence)


def _check_complete(study: Study, found: int, folder: Path, store: str) -> None:
    path, grid = folder / kept_runs.FILE, set(all_cells(study))
    kept = sum(cell in grid for cell in kept_runs.kept_cells(folder))
    if found and found >= kept:
        return
    runs = pluralize(found, "run") if found else "no run"
    more = f", and {path} has {kept}" if kept else ""
    others = f", or delete {path}" if kept else ""
    if kept and kept_runs.read_kept(folder).grid == grid_digest(study):
        others = f", pass --kept to use {path}, or delete that file"
    raise StudyError(
        f"--store {store} has {runs} of study {study.name}{more}: pass the study's store with --store, run `retrain "
        f"study run {study.name} --store {store}`{others}"
    )


def rewrite_report(study: Study, evidence: Path) -> Path:
    """Write a study's page, table and pictures from the runs in `runs.jsonl`. Raises `StudyError`."""
    folder = evidence / study.name
    kept = _read_own(study, folder)
    plots.write_plots(study, groups(study, kept.runs), folder)
    for path, text in (texts(study, kept, evidence) | readme(evidence)).items():
        path.write_text(text, encoding="utf-8")
    return evidence / f"{study.name}.md"


def _read_own(study: Study, folder: Path) -> KeptRuns:
    """Return the runs in `runs.jsonl`. Raises `StudyError` if a later change of the study's file affects its runs."""
    kept = kept_runs.read_kept(folder)
    if kept.grid != grid_digest(study):
        raise StudyError(
            f"{folder}: the study's file has changed since the runs: run `retrain study run {study.name}`, "
            f"then `retrain study report {study.name}`"
        )
    return kept


def texts(study: Study, kept: KeptRuns, evidence: Path) -> dict[Path, str]:
    """Return the files that are computed from `runs.jsonl`: path and content."""
    return {
        evidence / f"{study.name}.md": page(study, kept),
        evidence / study.name / "table.csv": comma_separated(study, kept),
    }


def readme(evidence: Path) -> dict[Path, str]:
    """Return the evidence's README.md with a new table of results, if it has the lines around the table."""
    path = evidence / "README.md"
    if not path.exists() or BEGIN not in (text := path.read_text(encoding="utf-8")):
        return {}
    return {path: with_agreement(text, all_studies())}


def check(evidence: Path) -> list[str]:
    """Compare all studies' pages and tables with their `runs.jsonl`, without training, and return the studies' names.

    Raises `StudyError` if there is no study, or if a file differs from its runs.
    """
    names = sorted(path.parent.name for path in evidence.glob(f"*/{kept_runs.FILE}"))
    if not names:
        raise StudyError(f"no folder in {evidence} has a {kept_runs.FILE}: pass the folder of the pages with --out")
    for name in names:
        study = load_study(name)
        kept = _read_own(study, evidence / name)
        for path, text in texts(study, kept, evidence).items():
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                raise StudyError(
                    f"{path} differs from its runs in {kept_runs.FILE}: run `retrain study report {name} --kept`"
                )
    for path, text in readme(evidence).items():
        if path.read_text(encoding="utf-8") != text:
            raise StudyError(
                f"{path}: the table of results differs from the studies' files: run `retrain study report NAME --kept`"
            )
    return names


def commit() -> str:
    """Return the commit of the working directory, or `unknown`."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
