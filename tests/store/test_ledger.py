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


def new_drop() -> Past:
    """Return a history with a champion from scratch and a new drop with the same number of images.

    The champion's accuracy is 80%. It was first reached at iteration 200 of 250.
    """
    return one_drop().landed(drop(2))


def make_savings(
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
    """Return the savings of a run of `used` iterations on both drops (1,000 images).

    Scratch would train for 1,000 iterations. On the first drop, it reached its accuracy after 80% of its iterations
    (200 of 250). The typical share of other tasks is 62%. The mean of both shares is 71%, so scratch is estimated to
    need 710 iterations. The standard error has two parts: 30% of the estimate (213 iterations), and the distance of the
    mean from the first share (9%, or 90 iterations). Together they are sqrt(213² + 90²) = 231.2 iterations. The
    run's 300 evaluated images cost another 10 iterations.
    """
    return make_savings(710, used, used + 10, 710 - used, 700 - used, 1000, 231.2)


def test_savings_are_scratch_iterations_minus_used_ones() -> None:
    past = new_drop()
    assert past.ended(past.plan(), iterations=40).savings == against_scratch(40)


def test_run_slower_than_scratch_has_negative_savings() -> None:
    past = new_drop()
    savings = past.ended(past.plan(), iterations=740).savings
    assert savings == against_scratch(740)
    assert (savings.gross, savings.net, savings.gross_whole, savings.net_whole) == (-30, -40, 260, 250)


def test_missed_run_costs_iterations_and_next_run_is_credited() -> None:
    past = new_drop()
    missed = past.ended(past.plan(), "missed", promoted=None, iterations=40)
    assert missed.savings == make_savings(0, 40, 50, -40, -50)
    reached = past.ended(past.plan(), iterations=70)
    assert reached.savings == against_scratch(70)
    assert total_savings(past.records).gross == 710 - 40 - 70
    assert total_savings(past.records).net == 710 - 50 - 80


@pytest.mark.parametrize("outcome", ["missed", "diverged", "plateau"])
def test_run_that_misses_its_target_has_negative_savings(outcome: str) -> None:
    past = new_drop()
    assert past.ended(past.plan(), outcome, promoted=None, reached=False).savings == make_savings(0, 40, 50, -40, -50)


def test_promoted_plateau_run_has_negative_savings() -> None:
    past = new_drop()
    assert past.ended(past.plan(), "plateau", reached=False).savings == make_savings(0, 40, 50, -40, -50)


def test_run_of_refused_candidate_has_negative_savings() -> None:
    past = new_drop()
    assert past.ended(past.plan(), promoted=False).savings == make_savings(0, 40, 50, -40, -50)


def test_savings_use_measured_scratch_iterations() -> None:
    """Compare with a calibration on the same dataset. It reached its accuracy after 200 of 250 iterations."""
    past = new_drop()
    past.ended(past.plan(Request(purpose="calibrate")), promoted=None)
    plan = past.plan()
    assert (plan.scratch.iterations, plan.scratch.standard_error, plan.scratch.provenance) == (200, 0, "measured")
    assert past.ended(plan).savings == make_savings(200, 40, 50, 160, 150, whole=1000)


def test_diverged_scratch_run_costs_training_and_evaluation() -> None:
    past = Past().landed(drop(1))
    assert past.ended(past.plan(), "diverged", promoted=None).savings == make_savings(0, 40, 50, -40, -50)


def test_scratch_retraining_has_savings_of_zero() -> None:
    past = new_drop()
    refresh = past.ended(past.plan(Request("scratch")), iterations=250)
    assert refresh.savings == make_savings(250, 250, 250, 0, 0, whole=250)


def test_calibration_counts_only_in_the_net_savings() -> None:
    past = new_drop()
    calibration = past.ended(past.plan(Request(purpose="calibrate")), promoted=None)
    assert calibration.savings == make_savings(0, 250, 260, 0, -260)


def test_trial_has_no_savings() -> None:
    past = new_drop()
    assert past.ended(past.plan(Request("naive", "trial")), promoted=None).savings is None


def test_run_failed_after_training_costs_all_iterations() -> None:
    plan = new_drop().plan()
    record = make_record(plan, result("reached", iterations=40), None, None, "OSError: the pod is gone")
    assert (record.outcome, record.error) == ("failed", "OSError: the pod is gone")
    assert record.savings == make_savings(0, 40, 50, -40, -50)


def test_run_failed_in_training_costs_its_iterations() -> None:
    past = new_drop()
    failed = make_record(past.plan(), None, None, None, "RuntimeError: out of memory", failed_after=30)
    assert (failed.outcome, failed.result) == ("failed", None)
    assert failed.savings == make_savings(0, 30, 30, -30, -30)
    assert past.ended(past.plan(), "failed", promoted=None).savings == make_savings(0, 0, 0, 0, 0)
    assert past.ended(past.plan()).savings == against_scratch(40)


def test_only_first_retraining_on_a_dataset_is_credited() -> None:
    past = new_drop()
    past.ended(past.plan(), iterations=40)
    again = past.ended(past.plan(Request("naive")), iterations=30)
    assert again.savings == make_savings(0, 30, 40, -30, -40)
    redone = past.ended(past.plan(Request("scratch")), iterations=250)
    assert redone.savings == make_savings(0, 250, 260, -250, -260)


def test_savings_at_99_percent_use_full_scratch_accuracy() -> None:
    """For any level of the target, scratch's iterations count until its final accuracy (Verwimp et al., eq. 2)."""
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
    assert total_savings(past.records) == make_savings(450, used, all_in, 90, -190, whole=1250)
    assert total_savings([]) == make_savings(0, 0, 0, 0, 0)


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


def test_second_record_of_a_run_is_ignored(store: ObjectStore) -> None:
    first = records()[0]
    late = first.model_copy(update={"outcome": "failed", "error": "a retried step"})
    assert TaskStore(store, "pets").ledger.write(first) == first
    assert TaskStore(store, "pets").ledger.write(late) == first
    assert TaskStore(store, "pets").ledger.write(first) == first
    assert TaskStore(store, "pets").ledger.read() == [first]


def test_error_for_a_damaged_record_names_its_key(store: ObjectStore) -> None:
    store.write(KEYS.record("scratch-1"), b'{"run_id": "scratch-1"}')
    with pytest.raises(StoreError, match=r"pets/ledger/scratch-1\.json was not written"):
        TaskStore(store, "pets").ledger.read()
