"""Tests that the evidence covers all items of the papers, and that hand-written pages match the stored runs."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from retrain.experiments.catalogue import PAPERS, entries
from retrain.experiments.files import all_studies

FOLDER = Path(__file__).parents[2] / "docs" / "evidence"
PAGE = (FOLDER / "cifar100-mini.md").read_text()
RECORDS = [
    json.loads(
        line, object_hook=lambda fields: SimpleNamespace(**fields)
    )  # records of an older version have other fields
    for line in (FOLDER / "cifar100-mini" / "ledger.jsonl").read_text().splitlines()
]


def ratio(record: SimpleNamespace, level: str) -> str:
    """Return L_r (eq. 2): the calibration's iterations to its final accuracy, divided by this run's to r percent."""
    (calibration,) = [each.result for each in RECORDS if each.purpose == "calibrate" and each.result]
    scratch, reached = getattr(calibration.reached_at, "100"), getattr(record.result.reached_at, level)
    return f"x{scratch / reached:.2f}" if reached else "/"


def row(record: SimpleNamespace) -> tuple[str, ...]:
    """Return the iterations, the accuracies in percent and L_r of a run."""
    test = f"{100 * record.evaluation.accuracy:.2f}" if record.evaluation else ""
    accuracies = f"{100 * record.result.final_accuracy:.2f}", test
    return f"{record.result.iterations:,}", *accuracies, ratio(record, "99"), ratio(record, "100")


def test_evidence_rows_and_comparisons_match_the_ledger() -> None:
    lines = [line.replace("**", "") for line in PAGE.splitlines() if re.match(r"\| (scratch|naive|continuous)", line)]
    stated = [tuple(cell.strip() for cell in line.strip("|").split("|"))[3:] for line in lines]
    found = {row(record) for record in RECORDS}
    assert len(stated) == 8
    assert set(stated) <= found
    assert {row(record) for record in RECORDS[1:] if record.evaluation} <= set(stated)


def test_evidence_savings_are_sums_of_the_ledger() -> None:
    counted = [record.savings for record in RECORDS if record.savings]
    missed = [record.savings.used for record in RECORDS if record.savings and record.outcome == "missed"]
    sums = sum(missed), sum(each.gross for each in counted), sum(each.net for each in counted), len(missed)
    flat = " ".join(PAGE.split())
    assert f"used {sums[0]:,} iterations" in flat
    assert f"the {('four runs' if sums[3] == 4 else sums[3])} that ended below the target" in flat
    assert f"is therefore {sums[1]:,} iterations gross, and {sums[2]:,.0f} net" in flat


def test_each_item_of_the_papers_has_a_paper_and_a_mini_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RETRAIN_STUDIES", str(FOLDER.parents[1] / "studies"))
    found = [entry for entry in entries(all_studies(), tmp_path, FOLDER) if not entry.item.startswith("Ours")]
    assert len({entry.item for entry in found}) == len(PAPERS["Verwimp et al."]) + len(PAPERS["Ash & Adams"]) == 33
    in_paper_size = {entry.item for entry in found if entry.study.endswith("-paper")}
    run_mini = {entry.item for entry in found if entry.status == "run mini"}
    assert in_paper_size == run_mini == {entry.item for entry in found}


def test_pages_begin_with_goals_and_measurements() -> None:
    measured = [path for path in FOLDER.glob("*.md") if path.stem not in ("README", "deviations")]
    heads = {path.stem: path.read_text().partition("\n## ")[0] for path in measured}
    assert [name for name, head in heads.items() if "goal | measured | met? |\n| ---" not in head] == []
