"""The pipeline's components: each only calls its step.

kfp copies the source of these functions into the pipeline and runs it alone in a pod, so they import what they need
themselves.
"""

from kfp import dsl


def plan(task: str, method: str, purpose: str, submission: str, job: str) -> str:
    """Return the id of the run to do; empty if there is nothing to do."""
    from retrain.kubeflow import steps

    return steps.plan(task, method, purpose, submission or job, job)


def train(task: str, run_id: str, device: str) -> str:
    """Return the id of the run that was trained last: a run that missed its target escalates to another."""
    from retrain.kubeflow import steps

    return steps.train(task, run_id, device)


def evaluate(task: str, run_id: str, device: str) -> str:
    """Return the run's id."""
    from retrain.kubeflow import steps

    return steps.evaluate(task, run_id, device)


def promote(task: str, run_id: str, device: str) -> str:
    """Return the run's id."""
    from retrain.kubeflow import steps

    return steps.promote(task, run_id, device)


def record(task: str, run_id: str, device: str) -> str:
    """Return the run's id."""
    from retrain.kubeflow import steps

    return steps.record(task, run_id, device)


def trial(task: str, run_id: str, device: str) -> str:
    """Do all of one run of a study, and return its id."""
    from retrain.kubeflow import steps

    return steps.trial(task, run_id, device)


def finish(task: str, submission: str, job: str, status: dsl.PipelineTaskFinalStatus) -> None:
    """Have the last word, however the others ended."""
    from retrain.kubeflow import steps

    steps.finish(task, submission or job, job, status.state, status.error_message)
