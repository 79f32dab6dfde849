"""The ledger: every case of savings, computed by hand, and records that never change."""

import pytest
from support.histories import START, TASK, Past, drop, one_drop, result

from retrain.errors import StoreError
from retrain.pipeline.accounting import make_record
from retrain.pipeline.planning import Request
from retrain.records import RunRecord, Savings
from retrain.records.ledger import Champion, Promotion, is_baseline, total_savings
from retrain.store import ObjectStore
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore

KEYS = TaskKeys("pets")
EVALUATED = 300
"""Images, in batches of ten: at a third of an iteration a batch, ten iterations."""


def new_drop() -> Past:
    """Return a champion from scratch at 80%, reached at iteration 200 of 250, and a second drop of as many images."""
    return one_drop().landed(drop(2))


def saved(
    baseline: int, used: int, used_all_in: float, gross: int, net: float, whole: int = 0, error: float = 0
) -> Savings:
    return Savings(
        baseline=baseline,
        whole=whole,
        used=used,
        used_all_in=used_all_in,
        gross=gross,
        net=net,
        gross_whole=gross - baseline + whole,
        net_whole=net - baseline + whole,
        standard_error=error,
    )


def against_scratch(used: int) -> Savings:
    """Return a run on both drops, 1,000 images: scratch trains for 1,000 iterations, and takes 710 to its accuracy.

    The scratch run on the first drop took 200 of its 250 iterations, 80%. The mean of that and of the typical 62% is
    71%; its error is 30% of it, and the 9% that the run differs by.
    """
    return saved(710, used, used + 10, 710 - used, 700 - used, 1000, 231.2)


def test_saving_is_scratchs_iterations_to_target_minus_own() -> None:
    past = new_drop()
    assert past.ended(past.plan(), iterations=40).savings == against_scratch(40)


def test_slower_run_than_scratch_lost() -> None:
    past = new_drop()
    savings = past.ended(past.plan(), iterations=740).savings
    assert savings == against_scratch(740)
    assert (savings.gross, savings.net, savings.gross_whole, savings.net_whole) == (-30, -40, 260, 250)


def test_missed_attempt_is_lost_and_the_next_compares_to_scratch() -> None:
    past = new_drop()
    missed = past.ended(past.plan(), "missed", promoted=None, iterations=40)
    assert missed.savings == saved(0, 40, 50, -40, -50)
    reached = past.ended(past.plan(), iterations=70)
    assert reached.savings == against_scratch(70)
    assert total_savings(past.records).gross == 710 - 40 - 70
    assert total_savings(past.records).net == 710 - 50 - 80


@pytest.mark.parametrize("outcome", ["missed", "diverged", "plateau"])
def test_run_without_a_model_at_its_target_is_lost(outcome: str) -> None:
    past = new_drop()
    assert past.ended(past.plan(), outcome, promoted=None, reached=False).savings == saved(0, 40, 50, -40, -50)


def test_plateau_has_saved_nothing_though_promoted() -> None:
    past = new_drop()
    assert past.ended(past.plan(), "plateau", reached=False).savings == saved(0, 40, 50, -40, -50)


def test_refused_candidate_has_saved_nothing() -> None:
    past = new_drop()
    assert past.ended(past.plan(), promoted=False).savings == saved(0, 40, 50, -40, -50)


def test_measured_scratch_stands_above_the_line() -> None:
    """A calibration on this very dataset took 200 of its 250 iterations."""
    past = new_drop()
    past.ended(past.plan(Request(purpose="calibrate")), promoted=None)
    plan = past.plan()
    assert (plan.scratch.iterations, plan.scratch.standard_error, plan.scratch.provenance) == (200, 0, "measured")
    assert past.ended(plan).savings == saved(200, 40, 50, 160, 150, whole=1000)


def test_scratch_run_that_diverged_is_lost_with_its_evaluation() -> None:
    past = Past().landed(drop(1))
    assert past.ended(past.plan(), "diverged", promoted=None).savings == saved(0, 40, 50, -40, -50)


def test_scratch_retraining_saves_nothing_and_loses_nothing() -> None:
    past = new_drop()
    refresh = past.ended(past.plan(Request("scratch")), iterations=250)
    assert refresh.savings == saved(250, 250, 250, 0, 0, whole=250)


def test_calibration_is_charged_to_the_net_saving_alone() -> None:
    past = new_drop()
    calibration = past.ended(past.plan(Request(purpose="calibrate")), promoted=None)
    assert calibration.savings == saved(0, 250, 260, 0, -260)


def test_trial_replaces_no_retraining() -> None:
    past = new_drop()
    assert past.ended(past.plan(Request("naive", "trial")), promoted=None).savings is None


def test_run_that_failed_after_its_training_is_lost_whole() -> None:
    plan = new_drop().plan()
    record = make_record(plan, result("reached", iterations=40), None, None, "OSError: the pod is gone")
    assert (record.outcome, record.error) == ("failed", "OSError: the pod is gone")
    assert record.savings == saved(0, 40, 50, -40, -50)


def test_run_failed_in_training_loses_its_iterations() -> None:
    past = new_drop()
    failed = make_record(past.plan(), None, None, None, "RuntimeError: out of memory", lost=30)
    assert (failed.outcome, failed.result) == ("failed", None)
    assert failed.savings == saved(0, 30, 30, -30, -30)
    assert past.ended(past.plan(), "failed", promoted=None).savings == saved(0, 0, 0, 0, 0)
    assert past.ended(past.plan()).savings == against_scratch(40)


def test_dataset_compares_with_scratch_once_for_many_retrainings() -> None:
    past = new_drop()
    past.ended(past.plan(), iterations=40)
    again = past.ended(past.plan(Request("naive")), iterations=30)
    assert again.savings == saved(0, 30, 40, -30, -40)
    redone = past.ended(past.plan(Request("scratch")), iterations=250)
    assert redone.savings == saved(0, 250, 260, -250, -260)


def test_target_at_99_percent_compares_to_scratchs_accuracy() -> None:
    """Verwimp et al., eq. 2: scratch's iterations to its own accuracy, whatever the level."""
    past = one_drop(TASK.model_copy(update={"target": TASK.target.model_copy(update={"level": 99})}))
    past.landed(drop(2))
    assert past.ended(past.plan(), iterations=40).savings == against_scratch(40)


def test_totals_are_the_sums_of_all_records() -> None:
    past = new_drop()
    past.ended(past.plan(Request(purpose="calibrate")), promoted=None)
    past.ended(past.plan(Request("naive", "trial")), promoted=None)
    past.ended(past.plan(), "missed", promoted=None)
    past.ended(past.plan(), iterations=70)
    used, all_in = 250 + 250 + 40 + 70, 250 + 260 + 50 + 80
    assert total_savings(past.records) == saved(450, used, all_in, 90, -190, whole=1250)
    assert total_savings([]) == saved(0, 0, 0, 0, 0)


def test_record_names_method_drops_and_start() -> None:
    past = new_drop()
    plan = past.plan()
    record = past.ended(plan)
    assert record.run_id == plan.run_id
    assert (record.drops, record.new_drops, record.parent) == (("d-1", "d-2"), ("d-2",), plan.parent)
    assert (record.scale, record.target) == (0.5, plan.target)


def test_baselines_are_completed_scratch_runs_except_trials() -> None:
    past = Past().landed(drop(1))
    past.ended(past.plan(), "diverged", promoted=None)
    past.ended(past.plan(Request("scratch"), TASK.model_copy(update={"seed": 1})))
    past.ended(past.plan(Request(purpose="calibrate")), promoted=None)
    past.ended(past.plan(Request("scratch", "trial")), promoted=None)
    past.ended(past.plan(Request("naive")))
    assert [is_baseline(record) for record in past.records] == [False, True, True, False, False]


def test_champion_is_the_last_of_its_history() -> None:
    runs = ("scratch-1", "continuous-2", "continuous-3")
    history = [Promotion(sequence=number, run_id=run, why="promoted", at=START) for number, run in enumerate(runs)]
    assert [Champion(history=tuple(history[:length])).run_id for length in (1, 2, 3)] == list(runs)


def records() -> list[RunRecord]:
    past = new_drop()
    past.ended(past.plan(), "missed", promoted=None)
    past.ended(past.plan())
    return past.records


def test_records_are_read_in_the_order_in_which_the_runs_ended(store: ObjectStore) -> None:
    written = records()
    for record in reversed(written):
        TaskStore(store, "pets").ledger.write(record)
    store.write(KEYS.ledger + "notes.txt", b"# not a record")
    assert TaskStore(store, "pets").ledger.read() == written
    assert TaskStore(store, "pets").ledger.run_ids() == {record.run_id for record in written}
    assert TaskStore(store, "pets").ledger.find(written[1].run_id) == written[1]
    assert TaskStore(store, "pets").ledger.find("scratch-unknown") is None


def test_final_record_follows_escalations_to_the_last_run(store: ObjectStore) -> None:
    last, other = records()[:2]
    first = other.model_copy(update={"run_id": "continuous-first", "followed_by": last.run_id})
    ledger = TaskStore(store, "pets").ledger
    assert ledger.final(first.run_id) is None
    ledger.write(first)
    assert ledger.final(first.run_id) is None
    ledger.write(last)
    assert ledger.final(first.run_id) == ledger.final(last.run_id) == last


def test_first_record_of_a_run_stays(store: ObjectStore) -> None:
    first = records()[0]
    late = first.model_copy(update={"outcome": "failed", "error": "a retried step"})
    assert TaskStore(store, "pets").ledger.write(first) == first
    assert TaskStore(store, "pets").ledger.write(late) == first
    assert TaskStore(store, "pets").ledger.write(first) == first
    assert TaskStore(store, "pets").ledger.read() == [first]


def test_damaged_record_is_named(store: ObjectStore) -> None:
    store.write(KEYS.record("scratch-1"), b'{"run_id": "scratch-1"}')
    with pytest.raises(StoreError, match=r"pets/ledger/scratch-1\.json was not written"):
        TaskStore(store, "pets").ledger.read()
