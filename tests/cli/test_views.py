"""Tests of the tables of runs, plans and drops, in cases that are easy to get wrong."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console
from rich.table import Table
from support import known_ledger
from support.histories import TASK, Past, drop, one_drop

from retrain.cli.drop_tables import drop_details, erasure_details
from retrain.cli.formatting import history_table, plan_details, record_details, saved_rows, status_details
from retrain.config.task import Task
from retrain.pipeline.approval import Candidate
from retrain.pipeline.planning import Request
from retrain.pipeline.status import Status
from retrain.records import Approval, Comparison, Decision, Interval, RunRecord, Savings
from retrain.records.drop import LeftOut
from retrain.records.erasure import AffectedRun, Erasure
from retrain.records.plan import Scope
from retrain.utils.clock import utc_now


def printed(table: Table) -> str:
    console = Console(width=300)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def shown(record: RunRecord) -> str:
    return printed(record_details(record))


def test_class_name_with_a_comma_is_in_quotes() -> None:
    shown_drop = printed(drop_details(drop(1, classes=("cat", "dog, small"))))
    assert 'cat, "dog, small"' in shown_drop


def test_accuracy_of_zero_is_printed() -> None:
    record = known_ledger.pets()[0]
    assert record.evaluation
    evaluation = record.evaluation.model_copy(update={"accuracy": 0.5, "score": 0.5, "old": 0.8, "new": 0.0})
    assert "50.00% (earlier drops 80.00%, new drops 0.00%)" in shown(
        record.model_copy(update={"evaluation": evaluation})
    )


def test_erasure_does_not_claim_that_a_model_was_removed() -> None:
    """A run without a model may be a run that is training now."""
    run = AffectedRun(run_id="scratch-1", saw="trained on them", has_model=False, is_champion=False)
    erasure = Erasure(sequence=1, at=utc_now(), author="ann", reason="", samples=(), shards=(), runs=(run,))
    assert "scratch-1          trained on them; its model is not in the store" in printed(erasure_details(erasure))


def test_summary_names_classes_without_a_correct_image() -> None:
    record = known_ledger.pets()[0]
    assert record.evaluation
    evaluation = record.evaluation.model_copy(update={"by_class": {"cat": 0.0, "dog": 0.01, "owl": 0.0}})
    missed = "no test image of 2 classes is classified correctly: cat, owl; gate.min_class_accuracy refuses such"
    assert missed in shown(record.model_copy(update={"evaluation": evaluation}))
    assert "classified correctly" not in shown(record)


CARRIED = known_ledger.target().model_copy(update={"scope": Scope(drops=("d-1",), classes=2)})
ADVICE = "A target that was measured on earlier drops does not cover them, so scratch may be better on them"


@pytest.mark.parametrize(
    ("new", "error", "is_named"),
    [(0.76, 0.0, False), (0.74, 0.0, True), (0.74, 0.025, True), (0.74, 0.035, False), (None, 0.0, False)],
)
def test_summary_names_clearly_lower_new_drops(new: float | None, error: float, is_named: bool) -> None:
    record = known_ledger.pets()[3]
    assert record.evaluation
    evaluation = record.evaluation.model_copy(update={"old": 0.8, "new": new, "gap_error": error})
    text = shown(record.model_copy(update={"evaluation": evaluation, "target": CARRIED}))
    assert ("lower on new drops than on earlier ones" in text) == (ADVICE in text) == is_named


def test_summary_does_not_advise_scratch_after_scratch() -> None:
    text = shown(known_ledger.pets()[0])
    assert "lower on new drops than on earlier ones" in text
    assert ADVICE not in text


@pytest.mark.parametrize(("accuracy", "dataset", "is_better"), [(0.9, "a", True), (0.7, "a", False), (0.9, "b", False)])
def test_status_names_scratch_that_is_better(accuracy: float, dataset: str, is_better: bool) -> None:
    champion, baseline = known_ledger.pets()[3], known_ledger.pets()[0]
    assert baseline.result
    assert champion.savings
    result = baseline.result.model_copy(update={"final_score": accuracy})
    status = Status(
        task="pets",
        store="s3://any",
        champion=champion.model_copy(update={"dataset_digest": "a", "target": CARRIED}),
        champion_since=utc_now(),
        baseline=baseline.model_copy(update={"dataset_digest": dataset, "result": result}),
        waiting=(),
        quarantined={},
        runs=2,
        savings=champion.savings,
    )
    text = printed(status_details(status))
    assert (f"`retrain promote {baseline.run_id} --task pets` replaces the champion" in text) == is_better
    assert (ADVICE in text) == (dataset == "b")


def test_escalated_runs_details_refer_to_the_earlier_runs() -> None:
    alone, second = known_ledger.pets()[0], known_ledger.pets()[3]
    assert "`retrain status` also counts earlier runs" in shown(second)
    assert "earlier runs" not in shown(alone)


def test_runs_summary_counts_the_iterations_of_missed_runs() -> None:
    """Scratch takes 710 iterations. The missed run used 150 and the next run 210, so both together saved 350."""
    past = one_drop().landed(drop(2))
    past.ended(past.plan(), "missed", promoted=None, iterations=150, reached=False)
    last = past.ended(past.plan(), iterations=210)
    summary = " ".join(printed(record_details(last, past.records)).split())
    assert "saved by 2 runs on these drops +350 iterations gross, +330 net, standard error" in summary
    assert "compared with the 710 iterations after which scratch first reaches its final accuracy" in summary
    assert "earlier runs" not in summary


def test_summary_of_a_trial_has_no_sum_over_runs() -> None:
    past = one_drop()
    for seed in (1, 2):
        task = TASK.model_copy(update={"seed": seed})
        last = past.ended(past.plan(Request("scratch", "trial"), task), promoted=None)
    assert "runs on these drops" not in printed(record_details(last, past.records))


def test_scratch_run_has_no_savings() -> None:
    past = one_drop()
    [scratch] = past.records
    assert "saved nothing: the savings of other runs are computed by comparison" in " ".join(shown(scratch).split())
    totals = " ".join(printed(record_details(scratch, past.records)).split())
    assert (
        "250 iterations after which scratch first reaches its final accuracy (runs from scratch count in full)"
        in totals
    )


def test_scratch_run_shows_its_iterations_to_its_accuracy() -> None:
    past = one_drop()
    assert "first reached after 200 iterations, 99% of it after 150" in shown(past.records[0])
    past.landed(drop(2))
    for plan, outcome in ((past.plan(), "reached"), (past.plan(Request("scratch")), "diverged")):
        assert "first reached" not in shown(past.ended(plan, outcome, promoted=None))


def test_diverged_run_shows_its_cause_and_advice() -> None:
    past = one_drop().landed(drop(2))
    diverged = shown(past.ended(past.plan(), "diverged", promoted=None))
    assert "its loss was not finite. Set a lower training.optimizer.learning_rate, set training.clip_norm" in diverged


def test_savings_without_a_baseline_have_one_row() -> None:
    savings = Savings(baseline=0, whole=0, used=9, used_all_in=9.5, gross=-9, net=-9.5, gross_whole=-9, net_whole=-9.5)
    assert list(saved_rows("saved", savings)) == [("saved", "-9 iterations gross, -10 net")]


def test_notes_of_the_gate_are_printed() -> None:
    record = known_ledger.pets()[0]
    note = "200 test images do not show"
    decided = record.decision.model_copy(update={"notes": (note,)})
    assert note in shown(record.model_copy(update={"decision": decided}))


def test_notes_of_the_gate_are_printed_for_a_waiting_candidate() -> None:
    record = known_ledger.pets()[0].model_copy(update={"decision": None})
    approval = Approval.requested(record.run_id, record.ended_at, timedelta(days=2))
    gate = Decision(promoted=True, reasons=(), notes=("200 test images do not show",))
    table = printed(record_details(record, candidate=Candidate(record, approval, gate)))
    words = " ".join(table.split())
    assert (
        f" gate {approval.describe(record.task, approval.expires_at)} gate undecided 200 test images do not show"
        in words
    )


def test_plan_shows_target_expectation_start_and_warnings() -> None:
    task = Task.model_validate({"name": "pets", "training": {"epochs": 10, "batch_size": 10}})
    past = one_drop(task)
    past.landed(drop(2, classes=("eel", "fox")))
    past.ended(past.plan(), iterations=200)
    plan = printed(plan_details(past.landed(drop(3)).plan()))
    assert "80.00% (standard error 4.00%): 100% of what scratch-" in plan
    assert "reached 2 drops ago, on the samples of that time (1 drop and 2 classes)" in plan
    estimate = "1,065 iterations to its accuracy, estimated from 1 scratch run and values typical of other tasks"
    assert f"{estimate} (standard error 347)" in plan
    assert "the last retraining on another dataset took 28% of s_scratch; about 300 iterations are expected" in plan
    assert "The parent's weights are shrunk" in plan
    assert "warning  " in plan
    assert "ends at the target: once the mean of 2 evaluations has reached it and the accuracy has" in " ".join(
        plan.split()
    )
    assert "below the target: after" in plan


def test_plan_names_the_parts_of_its_recipe() -> None:
    task = Task.model_validate({"name": "pets", "training": {"balanced_sampling": True}})
    plan = printed(plan_details(Past().landed(drop(1)).plan(task=task)))
    assert "start fresh, penalty none, sampling balanced, schedule cosine x1" in plan
    assert "1 drop, 500 training samples, 2 classes" in plan


def test_plan_tells_that_the_target_is_older_than_an_amendment() -> None:
    past = one_drop()
    first = past.drops[0]
    past.drops[0] = first.model_copy(update={"digest": "f" * 64})
    plan = past.plan()
    assert plan.target is not None
    assert (plan.target.provenance, plan.target.age) == ("carried", 0)
    text = printed(plan_details(plan))
    assert "reached on an earlier version of these drops" in text
    assert "0 drops ago" not in text


def test_negative_flips_are_explained_in_their_row() -> None:
    record = known_ledger.pets()[0]
    assert record.evaluation
    comparison = Comparison(
        champion="scratch-0",
        champion_accuracy=0.9,
        difference=Interval(value=0.01, low=-0.01, high=0.03),
        negative_flips=0.0377,
    )
    evaluation = record.evaluation.model_copy(update={"comparison": comparison})
    text = shown(record.model_copy(update={"evaluation": evaluation}))
    assert "+1.00% [-1.00%, +3.00%], negative flips 3.77% (only the champion was right)" in text


def test_held_out_row_shows_the_real_share() -> None:
    held_out = drop(1).model_copy(
        update={"held_out": {"val": 0.1}, "counts": {"train": {"cat": 35}, "val": {"cat": 5}, "test": {"cat": 10}}}
    )
    row = "5 of 40 images as val (12%, each drawn with a probability of 10%)"
    assert row in printed(drop_details(held_out))


def test_drop_details_list_the_first_samples_that_are_left_out() -> None:
    bad = tuple(LeftOut(where=f"cat/{number:02}.txt", key=f"cat/{number:02}", cause="no image") for number in range(25))
    shown = printed(drop_details(drop(1).model_copy(update={"left_out": bad})))
    assert "cat/00.txt: no image" in shown
    assert "cat/19.txt" in shown
    assert "cat/20.txt" not in shown
    assert "and 5 more: `retrain drop show --json`" in shown
    assert re.search(r"^bad +cat/00\.txt", shown, re.MULTILINE)
    assert "25 bad" in shown
    assert "cat/24.txt" in printed(drop_details(drop(1).model_copy(update={"left_out": bad}), is_committed=False)), (
        "a dry run lists all"
    )
    in_shard = printed(
        drop_details(drop(1).model_copy(update={"left_out": (bad[0].model_copy(update={"where": "a.tar"}),)}))
    )
    assert "a.tar: cat/00: no image" in in_shard


def test_drop_details_list_classes_without_training_images() -> None:
    one = drop(1)
    moved = one.model_copy(update={"counts": {**one.counts, "train": {"cat": 500}}})
    assert "without training images  in this drop: dog" in printed(drop_details(moved))


def test_history_shows_the_time_in_utc_or_the_year_of_old_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # pytest-xdist sets it
    now = utc_now()
    [record] = one_drop().records
    old, new = (record.model_copy(update={"ended_at": at}) for at in (datetime(2020, 5, 1, 14, 30, tzinfo=UTC), now))
    shown = printed(history_table([old, new]))
    assert "ended (UTC)" in shown
    assert "2020-05-01" in shown
    assert f"{now:%m-%d %H:%M}" in shown


def test_drop_that_is_not_committed_has_no_time_of_commit() -> None:
    assert "committed" in printed(drop_details(drop(1)))
    assert "committed" not in printed(drop_details(drop(1), is_committed=False))


def test_plan_explains_that_a_target_near_chance_is_refused() -> None:
    past = Past().landed(drop(1))
    past.ended(past.plan(), accuracy=0.52)
    plan = past.landed(drop(2)).plan()
    assert "no better than always predicting the most common class" in printed(plan_details(plan))
    assert any(
        "the scratch run has learnt almost nothing. Check the labels, or train longer: set" in one
        for one in plan.warnings
    )
