"""Planning the next run from drops and history, without a store."""

import pytest
from support.histories import TASK, Past, configured, drop, one_drop

from retrain.config.fields import identity
from retrain.pipeline.planning import NoRunNeeded, Request, equal_work, escalate
from retrain.records import Plan, parse_record


def reason(planned: Plan | NoRunNeeded) -> str:
    assert isinstance(planned, NoRunNeeded), planned
    return planned.reason


def test_nothing_is_planned_before_a_drop_has_landed() -> None:
    assert "no drop has landed yet" in reason(Past().next())


def test_first_drop_is_trained_from_scratch_at_full_length() -> None:
    plan = Past().landed(drop(1)).plan()
    assert (plan.method, plan.parent, plan.target, plan.known) == ("scratch", None, None, 0)
    assert (plan.recipe.initialization.name, plan.recipe.objective.name) == ("fresh", "none")
    assert (plan.iterations, plan.evaluate_every) == (500, 50)
    assert (plan.origin.drops, plan.origin.classes) == (1, 2)


def test_drops_that_landed_together_become_one_run() -> None:
    plan = Past().landed(drop(1), drop(2, classes=("eel",))).plan()
    assert [ref.id for ref in plan.dataset.drops] == ["d-1", "d-2"]
    assert plan.dataset.classes == ("cat", "dog", "eel")


def test_later_drop_continues_from_champion_to_carried_target() -> None:
    past = one_drop().landed(drop(2, samples=100))
    plan = past.plan()
    assert (plan.method, plan.parent, plan.known) == ("continuous", past.champion.run_id, 1)
    assert plan.origin == past.champion.origin
    assert plan.target.accuracy == plan.target.baseline_accuracy == 0.8
    assert (plan.target.provenance, plan.target.age) == ("carried", 1)
    assert (plan.target.baseline_run, plan.target.baseline_iterations) == (past.champion.run_id, 200)
    assert plan.target.baseline_reached_at == {"99": 150, "100": 200}
    assert "1 drop landed" in plan.reason


def test_s_scratch_counts_iterations_to_the_accuracy_of_scratch() -> None:
    """In eq. 2 of Verwimp et al., s(scratch, a_scratch) is the numerator for every r."""
    past = one_drop().landed(drop(2))
    target = past.plan(task=configured(target={"level": 99})).target
    assert target.accuracy == pytest.approx(0.792)
    assert target.baseline_iterations == 200


def test_baseline_on_the_same_dataset_gives_a_measured_target() -> None:
    past = one_drop().landed(drop(2))
    calibration = past.plan(Request(purpose="calibrate"))
    assert (calibration.method, calibration.target, calibration.parent) == ("scratch", None, None)
    past.ended(calibration, promoted=None, accuracy=0.7)
    target = past.plan().target
    assert (target.provenance, target.age, target.accuracy) == ("measured", 0, 0.7)
    assert target.baseline_run == calibration.run_id


def test_baseline_age_counts_drops_it_was_not_trained_on() -> None:
    past = one_drop()
    for number in (2, 3):
        past.landed(drop(number))
        past.ended(past.plan())
    assert past.landed(drop(4), drop(5)).plan().target.age == 4


def test_expected_from_follows_from_the_fastest_run() -> None:
    """Check that `expected_from` is three quarters of the iterations of the fastest run: 40, then 30 iterations."""
    past = one_drop().landed(drop(2))
    assert past.plan().target.expected_from == 0
    past.ended(past.plan())
    assert past.landed(drop(3)).plan().target.expected_from == round(0.75 * 40)
    past.ended(past.plan(), iterations=30)
    trial = past.landed(drop(4)).plan(Request("naive", "trial"))
    past.ended(trial, iterations=10, promoted=None)
    assert past.plan().target.expected_from == round(0.75 * 30)


@pytest.mark.parametrize(("new", "scale"), [(499, 0.25), (500, 0.5), (1500, 0.5)])
def test_schedule_is_chosen_by_the_share_of_new_data(new: int, scale: float) -> None:
    plan = one_drop().landed(drop(2, samples=new)).plan()
    assert plan.recipe.schedule.scale == scale
    samples = 500 + 2 * (new // 2)
    assert plan.iterations == round(samples * scale)
    assert plan.evaluate_every == round(samples / 10)


def test_scale_of_the_task_is_used() -> None:
    task = configured(recipe={"schedule": {"name": "cosine", "scale": 0.7}})
    assert one_drop(task).landed(drop(2)).plan().recipe.schedule.scale == 0.7


def test_baseline_is_refreshed_after_a_number_of_drops() -> None:
    past = one_drop(configured(baseline={"refresh": {"every": 2}})).landed(drop(2))
    second = past.plan()
    assert second.method == "continuous"
    past.ended(second)
    third = past.landed(drop(3)).plan()
    assert (third.method, third.target) == ("scratch", None)
    assert "2 drops old" in third.reason
    past.ended(third)
    assert past.landed(drop(4)).plan().method == "continuous"


def test_new_classes_refresh_the_baseline_if_set() -> None:
    refreshing = one_drop(configured(baseline={"refresh": {"on_new_classes": True}}))
    assert refreshing.landed(drop(2)).plan().method == "continuous"
    refreshing.ended(refreshing.plan())
    grown = refreshing.landed(drop(3, classes=("cat", "eel"))).plan()
    assert grown.method == "scratch"
    assert "on_new_classes" in grown.reason
    assert one_drop().landed(drop(2, classes=("cat", "eel"))).plan().method == "continuous"


def test_calibration_on_new_classes_replaces_the_refresh() -> None:
    past = one_drop(configured(baseline={"refresh": {"on_new_classes": True, "every": 1}})).landed(
        drop(2, classes=("eel",))
    )
    past.ended(past.plan(Request(purpose="calibrate")), promoted=None)
    assert past.plan().method == "continuous"


def test_missed_target_escalates_to_longer_runs_then_scratch() -> None:
    first = one_drop().landed(drop(2, samples=100)).plan()
    plans = [first]
    while following := escalate(plans[-1]):
        plans.append(following)
    assert [(plan.method, plan.recipe.schedule.scale) for plan in plans] == [
        ("continuous", 0.25),
        ("continuous", 0.5),
        ("continuous", 1.0),
        ("scratch", 1.0),
    ]
    assert [plan.iterations for plan in plans] == [150, 300, 600, 600]
    assert [plan.attempt for plan in plans] == [0, 1, 2, 3]
    assert plans[3].earlier == tuple(plan.run_id for plan in plans[:3])
    assert (plans[3].parent, plans[3].target, plans[3].known) == (None, None, 1)
    assert plans[3].origin.drops == 2
    assert all(plan.parent == first.parent and plan.target == first.target for plan in plans[:3])


def test_scale_of_the_task_escalates_to_the_next_longer_one() -> None:
    task = configured(recipe={"preset": "paper", "schedule": {"name": "cosine", "scale": 0.3}})
    plan = escalate(one_drop(task).landed(drop(2)).plan())
    assert plan.recipe.schedule.scale == 0.5


def test_escalation_ends_at_the_longest_schedule_without_on_miss() -> None:
    plan = one_drop(configured(baseline={"refresh": {"on_miss": False}})).landed(drop(2, samples=100)).plan()
    assert escalate(escalate(plan)).recipe.schedule.scale == 1
    assert escalate(escalate(escalate(plan))) is None


def test_trials_calibrations_and_targetless_runs_do_not_escalate() -> None:
    past = one_drop().landed(drop(2))
    assert escalate(past.plan(Request(purpose="trial"))) is None
    assert escalate(past.plan(Request(purpose="calibrate"))) is None
    assert escalate(past.plan(Request("scratch"))) is None


def test_naive_escalates_straight_to_scratch() -> None:
    assert escalate(one_drop().landed(drop(2)).plan(Request("naive"))).method == "scratch"


def test_escalation_continues_after_a_crash() -> None:
    past = one_drop().landed(drop(2, samples=100))
    first = past.plan()
    past.ended(first, "missed", promoted=None)
    second = past.plan()
    assert second == escalate(first)
    past.ended(second, "missed", promoted=None)
    assert past.plan() == escalate(second)


def test_default_request_without_new_drops_plans_no_run() -> None:
    past = one_drop()
    assert f"no drop has landed since champion {past.champion.run_id}" in reason(past.next())
    assert past.plan(Request("naive")).known == 1


def test_changed_settings_without_new_drops_wait_for_a_drop() -> None:
    past = one_drop()
    past.task = configured(data={"image_size": 12})
    assert reason(past.next()).endswith("are used from the next drop on, or now with --method scratch")
    past.task = configured(recipe={"preset": "paper"})
    assert reason(past.next()).endswith(past.champion.run_id)


def test_finished_run_is_not_repeated() -> None:
    past = one_drop().landed(drop(2))
    again = Request("naive", "trial")
    record = past.ended(past.plan(again), promoted=None)
    assert record.run_id in reason(past.next(again))


def test_diverged_run_is_not_repeated() -> None:
    past = one_drop().landed(drop(2))
    past.ended(past.plan(), "diverged", promoted=None)
    assert "diverged; its loss was not finite. Set a lower training.optimizer.learning_rate" in reason(past.next())


def test_drops_without_a_training_image_start_no_run() -> None:
    held_out = drop(1).model_copy(update={"counts": {"val": {"cat": 5}, "test": {"cat": 5}}})
    assert "no training image has landed yet" in reason(Past().landed(held_out).next())


@pytest.mark.parametrize(("split", "name"), [("val", "validation"), ("test", "test")])
def test_drops_without_an_image_to_evaluate_on_start_no_run(split: str, name: str) -> None:
    """The images of the split can all be in a quarantined drop.

    Without them, a run would fail, or be promoted without a comparison.
    """
    some = drop(1)
    blind = some.model_copy(update={"counts": {**some.counts, split: {}}})
    assert reason(Past().landed(blind).next()).startswith(f"no {name} image is left")
    assert isinstance(Past().landed(blind, drop(2)).next(), Plan)


def test_failed_run_is_tried_again_as_another_run() -> None:
    past = one_drop().landed(drop(2))
    first = past.plan()
    past.ended(first, "failed", promoted=None)
    second = past.plan()
    assert (second.retry, second.reason) == (1, first.reason)
    assert second.run_id != first.run_id
    past.ended(second, "failed", promoted=None)
    third = past.plan()
    assert third.retry == 2
    past.ended(third, "missed", promoted=None)
    assert (past.plan().attempt, past.plan().retry) == (1, 0)


def test_refused_candidates_dataset_waits_for_the_next_drop() -> None:
    past = one_drop().landed(drop(2))
    refused = past.ended(past.plan(), promoted=False)
    assert f"{refused.run_id} was trained on these drops and refused (worse)" in reason(past.next())
    later = past.landed(drop(3)).plan()
    assert (later.known, len(later.dataset.drops)) == (1, 3)


def test_refused_scratch_run_triggers_no_further_runs() -> None:
    past = one_drop().landed(drop(2, samples=100))
    plan = past.plan()
    while plan.method == "continuous":
        past.ended(plan, "missed", promoted=None)
        plan = past.plan()
    past.ended(plan, promoted=False, accuracy=0.7)
    assert "refused" in reason(past.next())


def test_rollback_does_not_retrain_on_the_same_drops() -> None:
    past = one_drop()
    first = past.champion
    past.landed(drop(2))
    past.ended(past.plan())
    past.champion = first
    assert "promoted, and later replaced" in reason(past.next())
    assert past.landed(drop(3)).plan().parent == first.run_id


def test_changed_network_starts_from_scratch() -> None:
    past = one_drop().landed(drop(2))
    wider = past.plan(task=configured(model={"name": "mlp"}))
    assert wider.method == "scratch"
    assert past.champion.run_id in wider.reason


def test_only_runs_of_equal_work_share_a_baseline() -> None:
    training = TASK.training.model_dump()
    assert equal_work(TASK, configured(training={**training, "save_seconds": 1}, gate={"margin": 0.5}, seed=3))
    assert not equal_work(TASK, configured(training={**training, "batch_size": 20}))
    assert not equal_work(TASK, configured(training={**training, "evaluate_every": 2}))
    assert not equal_work(TASK, configured(model={"name": "mlp"}))
    past = one_drop().landed(drop(2))
    past.scratch_runs = []
    assert past.plan().method == past.plan(Request("naive")).method == "scratch"


def test_plan_id_depends_on_every_training_setting() -> None:
    def ids(**parts: object) -> tuple[str, str]:
        past = one_drop().landed(drop(2))
        return past.plan(task=configured(**parts)).run_id, past.plan(Request("scratch"), configured(**parts)).run_id

    continuous, scratch = ids()
    assert continuous.startswith("continuous-")
    assert scratch.startswith("scratch-")
    assert (continuous, scratch) == ids(store="s3://elsewhere/x", endpoint_url="http://elsewhere", gate={"margin": 0.5})
    assert (continuous, scratch) == ids(baseline={"refresh": {"every": 7}})
    assert ids(recipe={"preset": "paper", "objective": {"name": "none"}})[0] != continuous
    assert ids(recipe={"preset": "paper", "objective": {"name": "none"}})[1] == scratch
    assert ids(target={"level": 99})[0] != continuous
    assert ids(target={"level": 99})[1] == scratch
    for other in ({"seed": 1}, {"data": {"flip": False}}, {"training": {**TASK.training.model_dump(), "bf16": True}}):
        assert ids(**other)[0] != continuous
        assert ids(**other)[1] != scratch


def test_plan_id_depends_on_the_dataset_not_on_the_reason() -> None:
    past = one_drop().landed(drop(2))
    plan = past.plan()
    assert past.landed(drop(3)).plan().run_id != plan.run_id
    assert plan.model_copy(update={"reason": "another", "attempt": 2, "earlier": ("x",)}).run_id == plan.run_id
    assert plan.model_copy(update={"retry": 1}).run_id != plan.run_id


def test_stored_plan_keeps_its_id_in_later_versions() -> None:
    plan = one_drop().champion
    assert parse_record(Plan, plan.to_bytes(), "plan.json") == plan
    earlier = plan.to_bytes().replace(plan.run_id.encode(), b"scratch-of-an-earlier-version")
    assert parse_record(Plan, earlier, "plan.json").run_id == "scratch-of-an-earlier-version"


def test_only_first_promoted_run_per_dataset_replaces_scratch() -> None:
    past = one_drop().landed(drop(2, samples=100))
    first = past.plan()
    assert past.ended(first, "missed", promoted=None).savings.baseline == 0
    second = past.plan()
    assert second.replaces_scratch
    assert past.ended(second, promoted=False).savings.baseline == 0, "a refused candidate has saved nothing"
    third = past.plan(Request("naive"))
    assert third.replaces_scratch
    assert past.ended(third, iterations=40).savings.baseline == 426
    fourth = past.plan(Request("continuous"), configured(seed=1))
    assert not fourth.replaces_scratch
    assert past.ended(fourth, iterations=40).savings.gross == -40


def test_length_in_iterations_does_not_depend_on_the_dataset() -> None:
    """Check that the scale 0.25 gives a quarter of 39,100 iterations (Verwimp et al., A.2)."""
    task = configured(
        training={**TASK.training.model_dump(), "iterations": 39100},
        recipe={"preset": "paper", "schedule": {"scale": 0.25}},
    )
    past = one_drop().landed(drop(2))
    plans = [past.plan(Request(method, "trial"), task=task) for method in ("scratch", "naive", "continuous")]
    assert [plan.iterations for plan in plans] == [39100, 39100, 9775]


def test_settings_added_later_keep_plan_ids() -> None:
    past = one_drop().landed(drop(2))
    plan = past.plan()
    decides = identity(plan)["task"]["training"]
    assert not {"iterations", "stop_at_train_accuracy"} & set(decides)
    fitted = past.plan(task=configured(training={**TASK.training.model_dump(), "stop_at_train_accuracy": 0.99}))
    assert identity(fitted)["task"]["training"]["stop_at_train_accuracy"] == 0.99
    assert fitted.run_id != plan.run_id
