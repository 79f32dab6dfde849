"""`target.metric` decides the target, the stop rule, the gate and the records."""

from pathlib import Path

import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score
from support.histories import TASK, Past, drop, one_drop
from support.workspaces import Workspace, make_task

from retrain.cli.formatting import history_table, record_details
from retrain.config import Metric, Split
from retrain.config.task import Gate, Task
from retrain.data.augment import Normalize
from retrain.monitoring.metrics import render
from retrain.pipeline import stages
from retrain.pipeline.evaluate import load_network
from retrain.pipeline.gate import decide, effective_samples, gate_warnings
from retrain.pipeline.planning import Request
from retrain.pipeline.targets import chance_level
from retrain.records import Evaluation, Plan, RunRecord
from retrain.store import LocalStore
from retrain.training.evaluation import predict_classes


def by(metric: Metric, task: Task = TASK) -> Task:
    return task.model_copy(update={"target": task.target.model_copy(update={"metric": metric})})


UNEVEN = drop(1).model_copy(update={"counts": {split: {"cat": 180, "dog": 20} for split in ("train", "val", "test")}})


def test_metric_is_part_of_a_plans_id_unless_it_is_accuracy() -> None:
    plain = one_drop().landed(drop(2)).plan(Request(purpose="calibrate"))
    scored = one_drop().landed(drop(2)).plan(Request(purpose="calibrate"), by("macro_f1"))
    assert plain.metric == "accuracy"
    assert scored.metric == "macro_f1"
    assert scored.run_id != plain.run_id
    assert plain.model_copy(update={"metric": "macro_f1"}).run_id == scored.run_id


@pytest.mark.parametrize(
    ("metric", "level"),
    [("accuracy", 0.9), ("top5_accuracy", 1.0), ("balanced_accuracy", 0.5), ("macro_f1", 1.8 / 1.9 / 2)],
)
def test_chance_level_is_the_score_of_the_best_guess(metric: Metric, level: float) -> None:
    assert chance_level([UNEVEN], 2, metric) == pytest.approx(level)


def test_macro_f1_of_even_classes_is_best_guessed_at_random() -> None:
    even = drop(1, classes=tuple("abcdefghij"))
    assert chance_level([even], 10, "macro_f1") == pytest.approx(0.1)


def test_top5_accuracy_of_few_classes_gives_no_target() -> None:
    past = one_drop(by("top5_accuracy")).landed(drop(2))
    plan = past.plan()
    assert plan.method == "scratch"
    assert "no better than the top-5 accuracy of guessing (100.00%" in plan.reason


def test_uneven_classes_count_as_fewer_images() -> None:
    assert effective_samples("accuracy", {"cat": 180, "dog": 20}) == 200
    assert effective_samples("macro_f1", {"cat": 180, "dog": 20, "owl": 0}) == 72
    assert effective_samples("balanced_accuracy", {"cat": 100, "dog": 100}) == 200
    (warning,) = gate_warnings(Gate(margin=0.05), [UNEVEN], True, "macro_f1")
    assert warning.startswith("200 test images (for macro F1 they count as 72) are too few to show")


def test_gate_judges_the_score_and_names_it() -> None:
    evaluation = Evaluation(
        samples=100,
        accuracy=0.9,
        metric="macro_f1",
        score=0.6,
        old=0.55,
        new=None,
        by_class={},
        comparison=None,
    )
    assert decide(Gate(min_accuracy=0.6, min_old_accuracy=0.5), evaluation).promoted
    decision = decide(Gate(min_accuracy=0.7, min_old_accuracy=0.6), evaluation)
    assert decision.reasons == (
        "macro F1 0.6000 is below gate.min_accuracy 0.7",
        "macro F1 on old drops 0.5500 is below gate.min_old_accuracy 0.6",
    )


def test_other_metrics_have_no_expected_score() -> None:
    """Check that a target has an estimate of scratch's final score only if the metric is accuracy."""
    more = drop(2, classes=("bat", "cow"))
    assert one_drop().landed(more).plan().target.expected
    assert one_drop(by("macro_f1")).landed(more).plan().target.expected is None


METRICS = {
    "balanced_accuracy": balanced_accuracy_score,
    "macro_f1": lambda true, guess: f1_score(true, guess, average="macro"),
}


@pytest.fixture(params=METRICS)
def scored(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Workspace, Task]:
    """Return a task scored by each metric, after its first run.

    Its two classes have different sizes, and some of their labels are swapped.
    """
    workspace = Workspace(LocalStore(tmp_path / "store"), tmp_path)
    workspace.land(0, 0, 0, 0, 0, 1, 1)
    workspace.land(0, 1, seed=5, mislabelled=True)
    task = make_task(target={"metric": request.param}, baseline={})
    stages.run_task(workspace.context, task, Request())
    return workspace, task


def score_of(workspace: Workspace, plan: Plan, split: Split) -> float:
    """Return the score of a run's model, computed with scikit-learn."""
    held = workspace.context.samples(plan.dataset, [split], plan.task.data, plan.loading)[split]
    network = load_network(workspace.context.files(plan.run_id), plan, (), workspace.context.device)
    guess, _, _ = predict_classes(network, held, Normalize(plan.task.data))
    return float(METRICS[plan.metric](held.labels.tolist(), guess.tolist()))


def test_retraining_is_stopped_judged_and_recorded_by_the_metric(scored: tuple[Workspace, Task]) -> None:
    workspace, task = scored
    (scratch,) = workspace.store.ledger.read()
    workspace.land(0, 1, 1, 2, seed=1)
    record = stages.run_task(workspace.context, task, Request())
    assert isinstance(record, RunRecord)
    plan = workspace.context.files(record.run_id).plan()
    assert record.method == "continuous", plan.reason
    assert record.metric == plan.metric == task.target.metric
    last = workspace.context.files(scratch.run_id).curve().points[-1]
    assert record.target.accuracy == scratch.result.final_score == last.score
    assert record.target.standard_error == last.standard_error > 0
    assert scratch.result.final_score != scratch.result.final_accuracy
    assert record.result.final_score == pytest.approx(score_of(workspace, plan, "val"))
    assert record.evaluation.score == pytest.approx(score_of(workspace, plan, "test"))
    assert record.evaluation.comparison.champion_score == pytest.approx(record.evaluation.score - _gain(record))
    _assert_metric_is_named(record, scratch)


def _gain(record: RunRecord) -> float:
    return record.evaluation.comparison.difference.value


def _assert_metric_is_named(record: RunRecord, scratch: RunRecord) -> None:
    """Check that tables and Prometheus metrics name the metric of each score."""
    name = {"macro_f1": "macro F1", "balanced_accuracy": "balanced accuracy"}[record.metric]
    rows = dict(zip(*(list(column.cells) for column in record_details(record).columns), strict=True))
    assert rows[f"{name} on test"].startswith(f"{record.evaluation.score:.2%}")
    assert rows["accuracy on test"] == f"{record.evaluation.accuracy:.2%}"
    assert rows["target on val"].startswith(f"{name} {record.target.accuracy:.2%}")
    assert f"val, target and test: {name}" in history_table([scratch, record]).caption
    served = render([scratch, record]).decode()
    assert (
        f'retrain_score_ratio{{metric="{record.metric}",split="test",task="pets"}} {record.evaluation.score}' in served
    )
    assert f'retrain_target_score_ratio{{metric="{record.metric}",task="pets"}} {record.target.accuracy}' in served


def test_another_metric_needs_another_baseline(scored: tuple[Workspace, Task]) -> None:
    workspace, task = scored
    workspace.land(1, 2, seed=1)
    plan = stages.plan(workspace.context, by("accuracy", task), Request())
    assert isinstance(plan, Plan)
    assert plan.method == "scratch"
    assert "no scratch run with this network and these training settings has measured a baseline" in plan.reason
    again = stages.plan(workspace.context, task, Request())
    assert isinstance(again, Plan)
    assert again.method == "continuous"


def test_run_scored_by_another_metric_is_not_a_baseline() -> None:
    past = Past(by("macro_f1")).landed(drop(1))
    past.ended(past.plan())
    past.scratch_runs.clear()
    assert past.landed(drop(2)).plan().reason.endswith("has measured a baseline by macro F1")
