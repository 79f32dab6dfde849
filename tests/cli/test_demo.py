"""Tests of the demo with a tiny network, of its last sentence, and of the table of its results."""

import json
import sys
from pathlib import Path

import pytest

from retrain.cli.demo import WEEKS, main, summarize, write_weeks

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

TINY = ["model.name=mlp", "model.options={width: 16}", "training.epochs=8"]


def test_demo_help_says_what_the_demo_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "replaces an earlier demo's store" in " ".join(capsys.readouterr().out.split())
    assert list(tmp_path.iterdir()) == []


def test_write_weeks_puts_each_image_into_one_week(tmp_path: Path) -> None:
    weeks = write_weeks(tmp_path)
    found = [[path.name for path in week.rglob("*.png")] for week in weeks]
    names = [name for week in found for name in week]
    assert len(names) == len(set(names)) == 1797
    assert [{folder.name for folder in week.iterdir()} for week in weeks] == [set(week.digits) for week in WEEKS]


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Return the results of the demo's benchmark for one seed, with a tiny perceptron."""
    import demo_seeds

    line: dict[str, object] = demo_seeds.run_seed(0, TINY, tmp_path_factory.mktemp("weeks"))
    return line


def test_demo_trains_scratch_once_and_continues_each_week(line: dict[str, list[dict[str, object]]]) -> None:
    assert [week["method"] for week in line["weeks"]] == ["scratch", "continuous", "continuous", "continuous"]
    assert all(week["ending"] == "promoted" for week in line["weeks"][:1])


def test_benchmark_summary_is_the_mean_over_seeds(line: dict[str, object]) -> None:
    import demo_seeds

    summary = demo_seeds.summarize([line, line])
    assert summary["seeds"] == 2
    assert summary["mean net by the ledger"] == round(line["net_ledger"])


def test_demo_says_if_no_iterations_were_saved() -> None:
    is_positive, text = summarize([])
    assert not is_positive
    assert text.startswith("Nothing was saved: training from scratch would have taken fewer iterations.")


def test_demo_page_contains_the_table_of_its_results() -> None:
    import demo_seeds

    lines = [json.loads(text) for text in demo_seeds.LINES.read_text().splitlines()]
    page = (ROOT / "docs" / "evidence" / "demo.md").read_text()
    assert demo_seeds.format_table(lines) in page
    assert f"| {demo_seeds.summarize(lines)['both']} of {len(lines)} |" in page
