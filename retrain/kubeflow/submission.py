"""Submit runs to Kubeflow. Subprocesses load kfp and torch, to keep the watcher's memory small."""

import logging

from retrain.config.task import Task
from retrain.errors import ModelError
from retrain.kubeflow.parameter import require_storable, write_parameter
from retrain.kubeflow.records import (
    ENDED_STATES,
    PipelineBuilder,
    Submission,
    Submitted,
    read_submission,
    write_submission,
)
from retrain.pipeline import next_run
from retrain.pipeline.approval import find_approval, is_waiting
from retrain.records import Plan
from retrain.store.task_store import TaskStore, open_task_store
from retrain.utils.clock import Clock, utc_now
from retrain.utils.processes import run_in_subprocess

SUBMIT_SECONDS = 120.0
"""Seconds that a subprocess may take to submit a run, check a model, or record the end of a run."""
log = logging.getLogger("retrain")


def require_submittable(task: Task) -> None:
    """Raise a `UserError` if the task's settings prevent the submission of any plan."""
    task.resources.require_one_node()
    write_parameter(task)
    require_storable(task)
    task.kubeflow.require_host()


def submit(task: Task, plan: Plan, store: TaskStore, build: PipelineBuilder) -> Submitted:
    """Submit a plan in the store, unless it is already submitted.

    A record of the submission is written first. It names the run, so the pods execute this run even if drops land
    meanwhile. After the submission, the record also names the job. Therefore no other job with the same name executes
    the run. Raises `SubmitError`. Raises `ModelError` if the model has an error. Then nothing is submitted.
    """
    bound = read_submission(store, plan.run_id)
    if bound is None:
        run_in_subprocess(f"checking the model of {plan.run_id}", SUBMIT_SECONDS, _check_model, task, plan)
        bound = Submission(run_id=plan.run_id)
        write_submission(store, plan.run_id, bound)
    submitted = run_in_subprocess(
        f"submitting {plan.run_id}", SUBMIT_SECONDS, _submit_by_name, task, plan.run_id, build
    )
    if bound.job != submitted.id:
        write_submission(store, plan.run_id, bound.model_copy(update={"job": submitted.id}))
    return submitted


def record_if_ended(task: Task, plan: Plan, submitted: Submitted) -> str | None:
    """Record a run as failed if its earlier submission ended without a record. Return the error, or None."""
    if submitted.new or submitted.state not in ENDED_STATES:
        return None
    error = f"its Kubeflow run {submitted.id} ended without a record (state: {submitted.state})"
    _record_failure_in_subprocess(task, plan, error)
    return error


class KubeflowExecutor:
    """Submits the watcher's runs to Kubeflow and follows them until they end."""

    def __init__(self, build: PipelineBuilder, clock: Clock = utc_now) -> None:
        self._build, self._clock = build, clock

    def ensure(self, task: Task, plan: Plan, store: TaskStore) -> bool:
        """Submit the run, unless it is already submitted. Return whether this call submitted it.

        Record the run as failed if it cannot start, or if it ended without a record. A run that awaits approval stays
        unchanged until it has a verdict. Then the verdict is applied and the run is recorded. Raises `SubmitError`.
        """
        last = next_run.latest_attempt(store, plan)
        if approval := find_approval(store, last, self._clock()):
            if not is_waiting(approval):
                run_in_subprocess(f"finishing {last.run_id}", SUBMIT_SECONDS, _finish_approval, task, last.run_id)
            return False
        try:
            submitted = submit(task, plan, store, self._build)
        except ModelError as error:
            _record_failure_in_subprocess(task, plan, str(error))
            return False
        if submitted.new:
            log.info("%s: submitted %s as %s", task.name, plan.run_id, submitted.id)
        record_if_ended(task, plan, submitted)
        return submitted.new


def _check_model(task: Task, plan: Plan) -> None:
    next_run.check_model(plan, open_task_store(task), elsewhere=True)


def _submit_by_name(task: Task, run_id: str, build: PipelineBuilder) -> Submitted:
    from retrain.kubeflow.client import submit_by_name

    return submit_by_name(task, run_id, build)


def _record_failure_in_subprocess(task: Task, plan: Plan, error: str) -> None:
    """Record a failed run. A subprocess loads the necessary code, to keep the watcher's memory small."""
    run_in_subprocess(f"recording the failure of {plan.run_id}", SUBMIT_SECONDS, _record_failure, task, plan, error)


def _finish_approval(task: Task, run_id: str) -> None:
    """Apply the verdict to a candidate, and record its run."""
    from retrain.pipeline.record_context import RecordContext
    from retrain.pipeline.recording import finish_approval

    finish_approval(RecordContext(open_task_store(task), factories=task.allowed_factories), run_id)


def _record_failure(task: Task, plan: Plan, error: str) -> None:
    """Write a run's record, unless another process has just written it."""
    from retrain.pipeline.record_context import RecordContext
    from retrain.pipeline.recording import record_failure

    record_failure(RecordContext(open_task_store(task), factories=task.allowed_factories), plan, error)
