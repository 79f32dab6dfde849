"""Outputs of a run's last step for the Kubeflow UI: metrics, a confusion matrix, a report and a model.

Nothing depends on them. The run has ended before they are written. If an output cannot be written, it is omitted with a
warning.
"""

import html
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

from kfp import dsl

from retrain.config.task import Task
from retrain.errors import UserError
from retrain.kubeflow.parameter import Parameter, read_parameter
from retrain.monitoring.pages import DRAW_SECONDS, draw_page
from retrain.pipeline.accounting import make_record
from retrain.records import ErrorAnalysis, RunRecord
from retrain.records.ledger import total_savings
from retrain.store.task_store import TaskStore, open_task_store
from retrain.utils.processes import run_in_subprocess

log = logging.getLogger("retrain")

CLASSES = 50
"""Largest number of classes in the confusion matrix. Kubeflow stores the matrix in its metadata."""


def write_outputs(
    parameter: Parameter,
    run_id: str,
    metrics: dsl.Metrics,
    confusion_matrix: dsl.ClassificationMetrics,
    report: dsl.HTML,
    model: dsl.Model,
) -> None:
    """Write the outputs of the step that ended a run or requested approval."""
    try:
        task = read_parameter(parameter)
        store = open_task_store(task)
        records = read_records(store, run_id)
        for name, value in run_metrics(records).items():
            metrics.log_metric(name, value)
        if errors := store.run(run_id).errors():
            log_confusions(confusion_matrix, errors)
        describe_model(model, store, records[-1])
        Path(report.path).write_text(_draw_report(task))
    except (UserError, OSError) as error:
        log.warning("%s: some outputs will be missing in Kubeflow's UI: %s", run_id, error)


def read_records(store: TaskStore, run_id: str) -> list[RunRecord]:
    """Return the records of a retraining: of the runs that missed its target, oldest first, and of this run.

    A candidate that awaits approval has no record yet. It gets a preliminary record without savings.
    """
    files = store.run(run_id)
    plan = files.plan()
    missed = [record for earlier in plan.earlier if (record := store.ledger.find(earlier))]
    last = store.ledger.find(run_id)
    if last is None:
        last = make_record(plan, files.result(), files.evaluation(), decision=None, error=None)
        last = last.model_copy(update={"savings": None})
    return [*missed, last]


def run_metrics(records: Sequence[RunRecord]) -> dict[str, float]:
    """Return the metrics of a retraining. Missing values are left out, because KFP cannot store null or NaN.

    Iterations are the sum over all records. Accuracies are between 0 and 1. `promoted` is 1 or 0.
    """
    last = records[-1]
    result, decision = last.result, last.decision
    saved = total_savings(records)
    figures = {
        "iterations_used": sum(_iterations_used(record) for record in records),
        "iterations_saved": saved.gross if last.savings else None,
        "iterations_saved_all_in": saved.net if last.savings else None,
        "L_99": result.speed_up["99"] if result else None,
        "L_100": result.speed_up["100"] if result else None,
        "validation_accuracy": result.final_accuracy if result else None,
        "target_accuracy": last.target.accuracy if last.target else None,
        "test_accuracy": last.evaluation.accuracy if last.evaluation else None,
        "promoted": int(decision.promoted) if decision else None,
    }
    return {name: figure for name, figure in figures.items() if figure is not None and math.isfinite(figure)}


def _iterations_used(record: RunRecord) -> int:
    if record.savings:
        return record.savings.used
    return record.result.iterations if record.result else 0


def log_confusions(matrix: dsl.ClassificationMetrics, errors: ErrorAnalysis) -> None:
    """Log the confusion matrix of the test split: a row for each true class, a column for each predicted class."""
    names = errors.most_wrong(CLASSES)
    matrix.set_confusion_matrix_categories(names)
    for one in errors.classes:
        if one.name in names:
            matrix.log_confusion_matrix_cell(one.name, one.name, one.correct)
    for confusion in errors.confusions:
        if {confusion.true, confusion.predicted} <= set(names):
            matrix.log_confusion_matrix_cell(confusion.true, confusion.predicted, confusion.count)


def describe_model(model: dsl.Model, store: TaskStore, record: RunRecord) -> None:
    """Write the run's id and the address of its weights into the model's metadata, and into its file as JSON.

    The artifact's address stays in the pipeline root. With an S3 address outside the pipeline root, KFP's launcher
    would fail the step.
    """
    has_ended = store.ledger.find(record.run_id) is not None
    model.framework = "pytorch"
    model.metadata |= {
        "task": record.task,
        "run_id": record.run_id,
        "outcome": record.ending if has_ended else "awaits approval",
    }
    if record.result and record.result.model_digest:
        model.metadata["weights"] = f"{store.url}/{store.keys.run(record.run_id, 'model.safetensors')}"
        model.metadata["sha256"] = record.result.model_digest
    Path(model.path).write_text(json.dumps(model.metadata, indent=2))


def _draw_report(task: Task) -> str:
    """Return the task's report, or a page with the reason why there is none."""
    try:
        return run_in_subprocess(f"writing the report of {task.name}", DRAW_SECONDS, draw_page, task).decode()
    except UserError as error:
        log.warning("%s", error)
        return f"<p>No report: {html.escape(str(error))}</p>\n"
