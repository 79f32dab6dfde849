"""The report's numbers match sums that the tests compute, and its groups of samples match the recipe."""

import re
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from support import known_ledger
from support.ledgers import ledger_of
from support.workspaces import Workspace, make_task

from retrain.config.recipe import EasyHard, OldNew, Sampling, Uniform
from retrain.config.task import Gate
from retrain.monitoring.report import ReportData, read_sources, render_page
from retrain.monitoring.report.figures import cumulative, headline, thin
from retrain.monitoring.report.learning_speed import Index, speed_bars, speed_groups
from retrain.monitoring.report.timeline import make_timeline
from retrain.pipeline import stages
from retrain.pipeline.planning import Request
from retrain.recipe.learning_speed import Counters
from retrain.recipe.sampling import keep_probability
from retrain.records import Champion, Promotion
from retrain.records.ledger import total_savings
from retrain.store import LocalStore


def test_cumulative_savings_end_at_the_ledgers_total() -> None:
    records = ledger_of(300)
    steps = cumulative(records)
    assert steps[-1].savings == total_savings(records)
    assert [step.savings.gross for step in steps[:50]] == [
        sum(record.savings.gross for record in records[: k + 1] if record.savings) for k in range(50)
    ]
    assert headline(records).saved_share == steps[-1].savings.net / steps[-1].savings.baseline


def test_page_says_that_amounts_leave_out_failed_runs() -> None:
    records = known_ledger.pets()
    failed = records[-1].model_copy(update={"run_id": "scratch-f", "outcome": "failed", "result": None})
    remark = "without runs that failed in training"
    assert headline([*records, failed]).saved_amounts == headline(records).saved_amounts
    for shown, is_named in ((records, False), ([*records, failed], True)):
        page = render_page(ReportData("pets", "store", records[-1].ended_at, shown))
        assert (remark in page) == is_named


def test_thinning_keeps_the_ends_and_the_order() -> None:
    assert thin(range(5), 5) == [0, 1, 2, 3, 4]
    kept = thin(range(1000), 120)
    assert len(kept) == 120
    assert (kept[0], kept[-1]) == (0, 999)
    assert kept == sorted(set(kept))


def test_easy_and_hard_groups_match_the_sampling() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = torch.randint(0, 9, (500,), generator=generator).float()
    correct = (seen * torch.rand(500, generator=generator)).round()
    counters = Counters(seen, correct, seen * torch.rand(500, generator=generator))
    probability = keep_probability(EasyHard(), counters, torch.ones(500, dtype=torch.bool))
    index = Index("run", seen.numpy(), correct.numpy(), counters.loss.numpy(), EasyHard())
    found = speed_groups(index)
    assert sorted([*found["easy"], *found["hard"]]) == (probability < 1).nonzero().squeeze(1).tolist()
    speed = correct / seen
    assert speed[found["easy"]].min() >= speed[found["middle"]].max()
    assert speed[found["middle"]].min() >= speed[found["hard"]].max()
    assert sum(bar.samples for bar in speed_bars(index)) == int((seen > 0).sum())


def test_champion_period_ends_at_the_next_promotion() -> None:
    first = known_ledger.pets()[0]
    at = [first.ended_at + timedelta(hours=hour) for hour in range(3)]
    history = tuple(
        Promotion(sequence=k + 1, run_id=run, why=why, at=at[k])
        for k, (run, why) in enumerate(
            [(first.run_id, "promoted"), ("without-record", "promoted by hand"), (first.run_id, "rolled back")]
        )
    )
    now = at[2] + timedelta(hours=5)
    periods = make_timeline(ReportData("birds", "store", now, [first], champion=Champion(history=history))).periods
    assert [(period.since, period.until) for period in periods] == [(at[0], at[1]), (at[1], at[2]), (at[2], now)]
    assert [period.score for period in periods] == [0.79, None, 0.79]


def test_page_names_weak_champions_and_quarantined_drops() -> None:
    records = known_ledger.pets()
    champion, now = records[3], records[-1].ended_at
    chosen = Champion(history=(Promotion(sequence=1, run_id=champion.run_id, why="promoted", at=now),))
    weak = "20.0 points lower on new drops than on earlier ones"
    shown = ReportData("pets", "store", now, records, champion=chosen, quarantined={"d-9": "no label", "d-10": "empty"})
    page = render_page(shown)
    assert weak in page
    assert "No run uses 2 drops in quarantine: d-9, d-10." in page
    page = render_page(ReportData("pets", "store", now, records))
    assert weak not in page
    assert "in quarantine" not in page


def sampling_sentence(sampling: Sampling) -> str:
    """Return the page's text about the sampling of the next run, for an index of 40 samples."""
    ones = np.ones(40, dtype=np.float32)
    index = Index("continuous-1", ones * 4, np.arange(40, dtype=np.float32) / 10, ones, sampling)
    now = known_ledger.START
    page = render_page(ReportData("pets", "store", now, known_ledger.pets(), index=index))
    return page[page.index("Samples of the next run") : page.index('id="runs"')]


def test_page_states_the_tasks_shares_of_easy_and_hard() -> None:
    text = sampling_sentence(EasyHard(share=0.25, probability=0.3))
    assert "The 25% easiest and the 25% hardest of the old samples appear in an epoch with probability 0.3" in text
    assert [int(number) for number in re.findall(r'<data value="(\d+)"', text)] == [10, 20, 10]


@pytest.mark.parametrize("sampling", [Uniform(), OldNew()])
def test_page_omits_easy_and_hard_for_other_samplings(sampling: Sampling) -> None:
    text = sampling_sentence(sampling)
    assert "easiest" not in text
    assert "Hard" not in text


def test_page_shows_the_learning_speed_index_of_the_champion(tmp_path: Path) -> None:
    """The refused candidate was trained on one more drop, but the next run continues from the champion."""
    workspace = Workspace(LocalStore(tmp_path / "store"), tmp_path)
    task = make_task(recipe={"preset": "paper", "sampling": {"name": "easy_hard", "share": 0.2, "probability": 0.5}})
    workspace.land(0, 1, seed=1)
    stages.run_task(workspace.context, task, Request())
    champion = workspace.store.ledger.read()[-1]
    workspace.land(2, 3, seed=2)
    stages.run_task(workspace.context, task.model_copy(update={"gate": Gate(min_accuracy=1.0)}), Request("scratch"))
    index = read_sources(workspace.store, workspace.store.ledger.read()).index
    assert len(workspace.store.ledger.read()) == 2
    assert index.run_id == champion.run_id
    assert len(index.seen) == workspace.context.files(champion.run_id).plan().dataset.samples
    assert index.share == 0.2
