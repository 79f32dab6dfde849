"""The pipeline's last step, and functions that all steps use: the task's store, and the error of a failed step.

This file imports no torch, because the step must start quickly.
"""

import logging

from retrain.config.task import Task
from retrain.kubeflow.parameter import Parameter, read_parameter
from retrain.kubeflow.records import Submission, read_submission
from retrain.pipeline import next_run
from retrain.pipeline.approval import find_approval
from retrain.pipeline.record_context import RecordContext
from retrain.pipeline.recording import record_failure
from retrain.records import Plan, RunRecord
from retrain.store import Missing
from retrain.store.task_store import TaskStore, open_task_store
from retrain.utils.clock import utc_now
from retrain.utils.logs import format_from_environment, make_handler

log = logging.getLogger("retrain")


def finish(parameter: Parameter, submission: str, job: str, state: str, message: str) -> None:
    """Record a failure that no step could record. Exit with 1 if the retraining failed.

    The ledger shows whether the retraining failed. `state` does not: Kubeflow's driver reports COMPLETE for a success
    and RUNNING for a killed pod, and kfp on one machine reports SUCCEEDED and FAILED.
    """
    task, store = open_store(parameter)
    no_plan = Submission(error="planning did not end: the log of the step `plan` has the cause")
    found = read_submission(store, submission) or no_plan
    if found.error:
        raise SystemExit(found.error)
    if found.run_id is None or not found.may_run_in(job):
        return
    plan = store.run(found.run_id).plan()
    if _has_approval(store, plan):
        return
    ended = find_record(store, plan)
    if ended is None:
        with store.lock(patient=True) as locked:
            fallback = f"its pods ended without a record (Kubeflow's state: {state})"
            ended = _record_end(task, locked, plan, message or fallback)
    if ended.outcome == "failed":
        raise SystemExit(f"{ended.run_id} failed: {ended.error}")


def _has_approval(store: TaskStore, plan: Plan) -> bool:
    """Return whether the run awaits approval, or a verdict has just ended the wait."""
    return find_approval(store, next_run.latest_attempt(store, plan), utc_now()) is not None


def _record_end(task: Task, store: TaskStore, plan: Plan, message: str) -> RunRecord:
    last = next_run.latest_attempt(store, plan)
    context = RecordContext(store, factories=task.allowed_factories)
    return record_failure(context, last, _read_error(store, last) or message)


def open_store(parameter: Parameter) -> tuple[Task, TaskStore]:
    """Return the task in a pipeline's parameter, and its store. Also configure logging as in `retrain`."""
    if not log.handlers:  # kfp's handler would mix these lines with its own output
        log.addHandler(make_handler(format_from_environment()))
        log.setLevel(logging.INFO)
        log.propagate = False
    task = read_parameter(parameter)
    return task, open_task_store(task)


def find_record(store: TaskStore, plan: Plan) -> RunRecord | None:
    """Return the record of a plan's run, or of the last run that followed it. None if that run has not ended."""
    return store.ledger.find(next_run.latest_attempt(store, plan).run_id)


def write_error(store: TaskStore, plan: Plan, text: str) -> None:
    """Write an error for `finish`, because this may be the step's last retry."""
    store.objects.write(_error_key(store, next_run.latest_attempt(store, plan)), text.encode())


def _read_error(store: TaskStore, plan: Plan) -> str | None:
    try:
        data, _ = store.objects.read(_error_key(store, plan))
    except Missing:
        return None
    return data.decode()


def _error_key(store: TaskStore, plan: Plan) -> str:
    return store.keys.run(plan.run_id, "error.txt")
