"""The pipeline's components. Each component only calls its step.

kfp copies the source of each function into the pipeline, without the other code of this file. Therefore, each function
imports what it needs.
"""

from kfp import dsl


def plan(task: dict[str, object], method: str, purpose: str, submission: str, job: str) -> str:
    """Return the id of the planned run, or an empty text if no run is needed."""
    from retrain.kubeflow import steps

    return steps.plan(task, method, purpose, submission or job, job)


def train(
    task: dict[str, object],
    run_id: str,
    device: str,
    metrics: dsl.Output[dsl.Metrics],
    confusion_matrix: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    model: dsl.Output[dsl.Model],
) -> str:
    """Run the stages after planning, and return the id of the last run.

    After a run that missed its target, another run may follow (escalation).
    """
    from retrain.kubeflow import outputs, steps

    last = steps.train(task, run_id, device)
    outputs.write_outputs(task, last, metrics, confusion_matrix, report, model)
    return last


def train_only(task: dict[str, object], run_id: str, device: str) -> str:
    """Train, and return the id of the last run.

    After a run that missed its target, another run may follow (escalation).
    """
    from retrain.kubeflow import steps

    return steps.train(task, run_id, device)


def evaluate(task: dict[str, object], run_id: str, device: str) -> str:
    """Evaluate a run, and return its id."""
    from retrain.kubeflow import steps

    return steps.evaluate(task, run_id, device)


def promote(task: dict[str, object], run_id: str, device: str) -> str:
    """Apply the gate to a run, and return its id."""
    from retrain.kubeflow import steps

    return steps.promote(task, run_id, device)


def record(
    task: dict[str, object],
    run_id: str,
    device: str,
    metrics: dsl.Output[dsl.Metrics],
    confusion_matrix: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    model: dsl.Output[dsl.Model],
) -> str:
    """Write a run's record, and return its id."""
    from retrain.kubeflow import outputs, steps

    last = steps.record(task, run_id, device)
    outputs.write_outputs(task, last, metrics, confusion_matrix, report, model)
    return last


def record_only(task: dict[str, object], run_id: str, device: str) -> str:
    """Write a run's record without outputs for Kubeflow's UI, and return its id."""
    from retrain.kubeflow import steps

    return steps.record(task, run_id, device)


def trial(task: str, run_id: str, device: str) -> str:
    """Run all stages of one run of a study, and return its id."""
    from retrain.kubeflow import steps

    return steps.trial(task, run_id, device)


def finish(task: dict[str, object], submission: str, job: str, status: dsl.PipelineTaskFinalStatus) -> None:
    """Record a failed run, and fail if the retraining failed. Runs last, even after errors."""
    from retrain.kubeflow import last_step

    last_step.finish(task, submission or job, job, status.state, status.error_message)
