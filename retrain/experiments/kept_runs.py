"""Read and write a study's runs in `runs.jsonl`. This file is stored next to the study's page.

The page's numbers are computed from this file, without repeating a run.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from retrain.errors import StudyError
from retrain.experiments.grid import Cell
from retrain.experiments.settings import Study
from retrain.records import Curve, Point, RunRecord, digest
from retrain.utils.files import temp_file

FILE = "runs.jsonl"
ABOUT = {
    *("repeats", "title", "regime", "paper", "claims", "findings"),
    *("draw", "plots", "cost", "spread", "fitted", "fitted_accuracy", "grids"),
}
"""Fields of a study's file about its results. They do not affect its runs."""

LEARNING_MAP = "map of samples by epoch"
"""Name of a measure: shares of correctly classified samples, with a row for each epoch and a column for each group of
samples, easy groups first."""
GRADIENTS = "gradient norms"
"""Start of the names of two measures, `gradient norms, old` and `gradient norms, new`: the mean norms of old and of new
samples' gradients during a training, as [iteration, norm]."""

Measure = float | list[list[float]]
"""One number, or a table of numbers."""
Figures = dict[str, Measure]
MAP = "map of learning speeds"
"""Name of a measure: shares of old samples by learning speed in the previous run (rows) and in this run (columns),
slow samples first."""


class EndedRun(NamedTuple):
    """An ended run with its cell, record, curve and measures."""

    cell: Cell
    record: RunRecord
    curve: Curve
    measures: Figures
    """Measurements of the run besides accuracy."""


class KeptRuns(NamedTuple):
    """The content of `runs.jsonl`: a study's ended runs, and their origin."""

    grid: str
    """Digest of the study's file when the runs were made, without the fields about results."""
    commit: str
    """The commit of the code that wrote this file."""
    runs: tuple[EndedRun, ...]


def grid_digest(study: Study) -> str:
    """Return the digest of the part of a study that affects its runs."""
    return digest(study.model_dump(mode="json", exclude=ABOUT, exclude_defaults=True))


def write_kept(kept: KeptRuns, folder: Path) -> None:
    """Write runs.jsonl: a header line, then a line for each run, with its curve as columns."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"grid": kept.grid, "commit": kept.commit}, *(_row(one) for one in kept.runs)]
    text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    with temp_file(lambda file: file.write(text.encode()), folder) as new:  # the former runs may be the only copy
        new.replace(folder / FILE)


def read_kept(folder: Path) -> KeptRuns:
    """Read runs.jsonl. Raises `StudyError` if it is missing or damaged."""
    path = folder / FILE
    try:
        head, *lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        return KeptRuns(head["grid"], head["commit"], tuple(map(_ended_run, lines)))
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        cause = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise StudyError(
            f"{path} is missing or damaged ({cause}): `retrain study report {folder.name} --store STORE` without "
            "--kept writes it from the store of `retrain study run`"
        ) from error


def kept_cells(folder: Path) -> list[Cell]:
    """Return the cells of the runs in runs.jsonl, without damaged lines. Empty if there is no such file."""
    path = folder / FILE
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[1:] if path.exists() else ():
        with suppress(ValueError, KeyError, TypeError):
            found.append(Cell(**json.loads(line)["cell"]))
    return found


def _row(one: EndedRun) -> dict[str, Any]:
    points = [point.model_dump() for point in one.curve.points]
    columns = {name: [point[name] for point in points] for name in Point.model_fields}
    record = one.record.model_dump(mode="json")
    return {"cell": one.cell._asdict(), "record": record, "curve": columns, "measures": one.measures}


def _ended_run(line: dict[str, Any]) -> EndedRun:
    columns = {
        name: line["curve"][name] for name in Point.model_fields if name in line["curve"]
    }  # runs of older versions lack some columns
    points = zip(*columns.values(), strict=True)
    curve = Curve(points=tuple(Point(**dict(zip(columns, values, strict=True))) for values in points))
    return EndedRun(Cell(**line["cell"]), RunRecord.model_validate(line["record"]), curve, line["measures"])
