"""Tests of `retrain study report` with a wrong store, a changed study, or a page that cannot be written."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.studying import TWO_SEEDS, small_study, workplace
from support.terminal import retrain

from retrain.errors import StudyError
from retrain.experiments import report
from retrain.experiments.kept_runs import kept_cells


@pytest.fixture(autouse=True, scope="module")
def study_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder with the task of the studies."""
    with workplace(tmp_path_factory.mktemp("study")) as root:
        yield root


def test_report_of_a_wrong_store_keeps_the_recorded_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAIN_STUDIES", str(tmp_path))
    study = small_study(seeds=[0, 1])
    (tmp_path / "small.yaml").write_text(study.model_dump_json())
    arguments = ["study", "report", "small", "--store", str(tmp_path / "none"), "--out", str(tmp_path)]
    ran = retrain(arguments, capfd)
    assert (ran.code, ran.out) == (2, "")
    assert f"--store {tmp_path}/none has no run of study small: pass the study's store with --store" in ran.err
    assert not (tmp_path / "small").exists()
    report.write_report(study, TWO_SEEDS, tmp_path, "study-store")
    kept = (tmp_path / "small" / "runs.jsonl").read_bytes()
    ran = retrain(arguments, capfd)
    assert ran.code == 2
    assert f"pass --kept to use {tmp_path}/small/runs.jsonl" in ran.err
    with pytest.raises(
        StudyError, match=rf"--store partial has 5 runs of study small, and {tmp_path}/small/runs.jsonl has 6"
    ):
        report.write_report(study, TWO_SEEDS[1:], tmp_path, "partial")
    assert (tmp_path / "small" / "runs.jsonl").read_bytes() == kept
    report.write_report(study, TWO_SEEDS, tmp_path, "study-store")


def test_report_accepts_a_store_after_a_method_was_removed(tmp_path: Path) -> None:
    report.write_report(small_study(seeds=[0, 1]), TWO_SEEDS, tmp_path, "study-store")
    study = small_study(seeds=[0, 1], methods={"scratch": {"start": "scratch"}})
    runs = [run for run in TWO_SEEDS if run.cell.method == "scratch"]
    with pytest.raises(StudyError, match=r"has 1 run of study small, and .*/runs.jsonl has 2: .*, or delete") as error:
        report.write_report(study, runs[1:], tmp_path, "study-store")
    assert "--kept" not in str(error.value)
    report.write_report(study, runs, tmp_path, "study-store")
    assert kept_cells(tmp_path / "small") == [run.cell for run in runs]


def test_kept_runs_are_refused_after_a_change_of_the_grid(tmp_path: Path) -> None:
    page = report.write_report(small_study(seeds=[0, 1]), TWO_SEEDS, tmp_path, "study-store")
    before = page.read_text()
    for changed in (
        small_study(seeds=[0]),
        small_study(seeds=[0, 1], methods={"scratch": {"start": "scratch"}}),
        small_study(seeds=[0, 1], set={"training.epochs": 5}),
    ):
        with pytest.raises(StudyError, match="the study's file has changed since the runs"):
            report.rewrite_report(changed, tmp_path)
    assert page.read_text() == before


def test_unwritable_page_is_reported_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAIN_STUDIES", str(tmp_path))
    (tmp_path / "small.yaml").write_text(small_study(seeds=[0, 1]).model_dump_json())
    report.write_report(small_study(seeds=[0, 1]), TWO_SEEDS, tmp_path, "study-store").unlink()
    (tmp_path / "small.md").mkdir()
    ran = retrain(["study", "report", "small", "--kept", "--out", str(tmp_path)], capfd)
    assert (ran.code, ran.err) == (2, f"retrain: --out {tmp_path}: cannot be written: Is a directory\n")


def test_missing_runs_name_the_command_that_writes_them(tmp_path: Path) -> None:
    advice = (
        r"small/runs.jsonl is missing or damaged \(No such file or directory\): `retrain study report small --store"
    )
    with pytest.raises(StudyError, match=advice):
        report.rewrite_report(small_study(), tmp_path)
    report.write_report(small_study(seeds=[0, 1]), TWO_SEEDS, tmp_path, "study-store")
    assert report.rewrite_report(small_study(seeds=[0, 1]), tmp_path) == tmp_path / "small.md"
