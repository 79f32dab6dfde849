"""Study files by name or path."""

import os
from pathlib import Path

from pydantic import ValidationError

from retrain.errors import StudyError
from retrain.study.settings import Study
from retrain.tasks.strict_yaml import load_yaml


def folder() -> Path:
    """Return where study files lie: $RETRAIN_STUDIES, or studies/ in the working directory."""
    return Path(os.environ.get("RETRAIN_STUDIES") or "studies")


def load_study(name_or_path: str) -> Study:
    """Read a study; a path has a suffix or a slash, a name is looked up in `folder()`. Raises `StudyError`."""
    is_path = "/" in name_or_path or Path(name_or_path).suffix
    path = Path(name_or_path) if is_path else folder() / f"{name_or_path}.yaml"
    try:
        document = load_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: cannot be read: {getattr(error, 'strerror', 'not UTF-8')}") from None
    try:
        return Study.model_validate(document)
    except ValidationError as error:
        lines = (f"{path}: {'.'.join(map(str, each['loc'])) or 'study'}: {each['msg']}" for each in error.errors())
        raise StudyError("\n".join(lines)) from None
