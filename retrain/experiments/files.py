"""Find and read study files."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from retrain.config.loading import load_yaml, own_folder
from retrain.config.validation import describe_problems
from retrain.errors import StudyError, UserError
from retrain.experiments.settings import Study
from retrain.utils.logs import LOGGER

FORMER_ENDING, ENDING = "-letter-mini", "-faithful-mini"
"""Ending of some studies' names until version 0.2, and the ending that replaced it."""


def studies_folder() -> Path:
    """Return the folder of study files.

    This is $RETRAIN_STUDIES if it is set, or studies/ in the working directory if it exists, or else the folder that is
    installed with the package.
    """
    if folder := os.environ.get("RETRAIN_STUDIES"):
        return Path(folder)
    return next(filter(Path.is_dir, [Path("studies"), own_folder("studies")]), Path("studies"))


def all_studies() -> list[Study]:
    """Read every study in the folder. Raises `StudyError` if a file is wrong or there is none."""
    return [load_study(name) for name in _existing_names()]


def valid_studies() -> list[Study]:
    """Read every valid study in the folder, and log a warning for each wrong file.

    Raises `StudyError` if there is no file.
    """
    studies = []
    for name in _existing_names():
        try:
            studies.append(load_study(name))
        except UserError as error:
            LOGGER.warning("study %s is left out, because its file is wrong: %s", name, error)
    return studies


def load_study(name_or_path: str) -> Study:
    """Read a study. Text with a suffix or a slash is a path. Other text is a name, looked up in the folder.

    A file with `extends: OTHER` takes absent fields from OTHER.yaml in the same folder. It never takes `findings` and
    `claims`, because these describe the other study's runs. The field `paper` has the rows of a paper's table that the
    results are compared with. A file with its own list of repeated tables (`repeats`) does not take `paper`. `paper:
    OTHER`, or a list of names, takes the rows from OTHER.yaml. Raises `StudyError` with one line for each problem.
    """
    is_path = "/" in name_or_path or Path(name_or_path).suffix
    if not is_path:
        name_or_path = _current_name(name_or_path)
    path = Path(name_or_path) if is_path else studies_folder() / f"{name_or_path}.yaml"
    if not is_path and not path.exists():
        known = ", ".join(_study_names()) or "none"
        raise StudyError(f"there is no study {name_or_path!r} in {studies_folder()}; allowed: {known}")
    try:
        return Study.model_validate(_with_rows_of(path, _read(path)))
    except ValidationError as error:
        raise StudyError(describe_problems(error, Study, str(path))) from None


def _current_name(name: str) -> str:
    if not name.endswith(FORMER_ENDING):
        return name
    current = name.removesuffix(FORMER_ENDING) + ENDING
    LOGGER.warning("study %s is now called %s: use the new name; the old one will be removed", name, current)
    return current


def _study_names() -> list[str]:
    return sorted(path.stem for path in studies_folder().glob("*.yaml"))


def _existing_names() -> list[str]:
    if names := _study_names():
        return names
    raise StudyError(f"there are no studies in {studies_folder()}: set RETRAIN_STUDIES to their folder")


def _read(path: Path, extending: tuple[Path, ...] = ()) -> dict[Any, Any]:
    """Return a study's document, with the absent fields from the file that it extends. `extending` are the files that
    extend this file.
    """
    if path in extending:
        raise StudyError(f"{extending[0]}: extends: leads back to {path}: remove `extends` from one of these files")
    try:
        document = _parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: cannot be read: {getattr(error, 'strerror', 'not UTF-8')}") from None
    if not isinstance(document, dict):
        raise StudyError(f"{path}: must be a mapping of fields, such as 'name: my-study'")
    extended = document.get("extends")
    document = {field: value for field, value in document.items() if field != "extends"}
    if not extended:
        return document
    others = _read(_beside(path, "extends", extended), (*extending, path)) | {"findings": "", "claims": []}
    return others | ({"paper": []} if "repeats" in document else {}) | document


@lru_cache(256)
def _parse(text: str, source: str) -> Any:
    """Return the document in a YAML text. Callers must not change it. Files that many studies share are parsed once."""
    return load_yaml(text, source)


def _beside(path: Path, field: str, name: object) -> Path:
    """Return the study file of this name in the same folder. Raises `StudyError` if `name` is no name of a study."""
    if not isinstance(name, str) or not name or "/" in name:
        raise StudyError(
            f"{path}: {field}: must be the name of a study in the same folder, such as digits (got {name!r})"
        )
    return path.with_name(f"{name}.yaml")


def _with_rows_of(path: Path, document: dict[Any, Any]) -> dict[Any, Any]:
    """Return a study's document with the paper's rows from the files listed in its field `paper`, if there are any.

    A row is not compared with this study's runs in two cases: the study lacks the row's method, split or variant, or
    the row comes from a file after the first. Files after the first are about other data sets.
    """
    named = document.get("paper")
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return document
    known = {kind[:-1]: document.get(kind) or {} for kind in ("methods", "splits", "variants")}
    rows = []
    for number, name in enumerate(names):
        for row in _rows_of(_beside(path, "paper", name), path):
            lacks = number > 0 or any(kind in row and row[kind] not in own for kind, own in known.items())
            rows.append({key: value for key, value in row.items() if not (lacks and key in known)})
    return document | {"paper": rows}


def _rows_of(path: Path, wanted_by: Path) -> list[dict[str, Any]]:
    """Return the rows of the paper that a study file lists itself."""
    rows = _read(path).get("paper")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise StudyError(f"{wanted_by}: paper: {path} has no rows of its own under `paper`: name a study that has them")
    return rows
