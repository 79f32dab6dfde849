"""Tests of where decoded drops are cached."""

from pathlib import Path

import pytest

from retrain.data.decoded import cache_folder
from retrain.errors import UserError


def test_cache_without_a_home_directory_names_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("RETRAIN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(UserError, match=r"set \$RETRAIN_CACHE"):
        cache_folder()
    monkeypatch.setenv("RETRAIN_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
