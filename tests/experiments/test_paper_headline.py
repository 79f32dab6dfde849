"""Tests of `scripts/paper_headline.sh` on the CPU with tiny runs. The runs are interrupted and resumed."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import preloaded_programs
from support.studying import small_study, workplace

SCRIPT = Path(__file__).parents[2] / "scripts" / "paper_headline.sh"


@pytest.fixture(scope="module")
def study_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with workplace(tmp_path_factory.mktemp("headline")) as root:
        (root / "studies").mkdir()
        study = small_study(name="tiny-headline", seeds=[0], methods={"scratch": {"start": "scratch"}, "naive": {}})
        (root / "studies" / "tiny-headline.yaml").write_text(study.model_dump_json())
        yield root


def headline(study_root: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    python = str(preloaded_programs() / "python")
    known = {"STUDY": "tiny-headline", "JOBS": "1", "DEVICE": "cpu", "SEEDS": "1", "PYTHON": python}
    command = ["bash", str(SCRIPT), str(study_root), str(folder), "5"]
    given = os.environ | known | environment
    return subprocess.run(command, env=given, cwd=SCRIPT.parents[1], capture_output=True, text=True, check=False)


def test_headline_script_resumes_from_its_records(study_root: Path, tmp_path: Path) -> None:
    without_time = headline(study_root, tmp_path / "here", SPARE_SECONDS="300")
    assert (without_time.returncode, "the time limit is reached" in without_time.stdout) == (0, True)
    whole = headline(study_root, tmp_path / "here")
    assert whole.returncode == 0, whole.stderr
    assert "all rows have run" in whole.stdout
    page = (tmp_path / "here" / "evidence" / "tiny-headline.md").read_text()
    assert "3 runs" in page
    shutil.copytree(tmp_path / "here" / "store", tmp_path / "there" / "store")
    for drops in (tmp_path / "there" / "store").glob("*/drops"):
        shutil.rmtree(drops)  # another machine packs them again
    again = headline(study_root, tmp_path / "there")
    assert again.returncode == 0, again.stderr
    assert "tiny-headline: 0 runs done" in again.stdout


def test_headline_script_fails_if_the_study_fails(study_root: Path, tmp_path: Path) -> None:
    failed = headline(study_root, tmp_path, STUDY="no-such-study")
    assert failed.returncode == 2
    assert "there is no study 'no-such-study'" in failed.stderr
