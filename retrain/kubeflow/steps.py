"""Run the pipeline's steps: call the stages, and separate permanent errors from those worth a retry.

KFP retries a failed pod for any error. So a step fails only with errors that a retry may fix: a preempted machine, an
unreachable store, or an unexpected error. Any other `UserError` (a damaged drop, a model that does not match) is
written into the ledger and the step succeeds. The later steps find that the run has ended, and `finish` fails. Kubeflow
still shows such a run as succeeded, because Argo ignores the result of an exit handler: the ledger is authoritative.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import cast, get_args

from retrain.config import Method, Purpose
from retrain.config.loading import parse_task
from retrain.config.task import Task
from retrain.errors import UserError
from retrain.kubeflow.records import Submission, read_submission, write_submission
from retrain.monitoring.observers import LOOPBACK, make_observers
from retrain.pipeline import next_run, stages
from retrain.pipeline.approval import find_approval
from retrain.pipeline.context import Context, make_context
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.pipeline.train import run_as_leader
from retrain.records import Plan, RunRecord
from retrain.store import Missing
from retrain.store.task_store import open_task_store
from retrain.training.preemption import raise_preempted
from retrain.utils.logs import format_from_environment, make_handler

log = logging.getLogger("retrain")


def plan(text: str, method: str, purpose: str, submission: str, job: str) -> str:
    """Return the id of the run that a submission is bound to, or plan the next run and return its id.

    Returns an empty text if no run is needed, or if another job executes this submission.
    """
    task, context = _open(text, "cpu")
    found = read_submission(context.store, submission)
    if found is None:
        with context.store.lock(patient=True) as ours:
            found = read_submission(ours, submission)  # another pod may have planned it meanwhile
            if found is None:
                found = _plan(replace(context, store=ours), task, method, purpose)
                write_submission(ours, submission, found)
    if not found.may_run_in(job):
        log.info("nothing to do: job %s executes %s", found.job, submission)
        return ""
    return found.run_id or ""


def _plan(context: Context, task: Task, method: str, purpose: str) -> Submission:
    try:
        planned = stages.plan(context, task, request(method, purpose))
    except UserError as error:
        if not stages.is_permanent(error):
            raise
        return Submission(error=str(error))
    if isinstance(planned, NoRunNeeded):
        log.info("nothing to do: %s", planned.reason)
        return Submission(nothing=planned.reason)
    return Submission(run_id=planned.run_id)


def request(method: str, purpose: str) -> Request:
    """Return the request in the pipeline's parameters. An empty method means that the plan chooses."""
    for word, allowed in ((method or "scratch", get_args(Method)), (purpose, get_args(Purpose))):
        if word not in allowed:
            raise UserError(f"{word!r} must be one of {', '.join(allowed)}")
    return Request(cast(Method, method) if method else None, cast(Purpose, purpose))


def train(text: str, run_id: str, device: str) -> str:
    """Train a run and its escalations, with a process for each GPU, and return the id of the last run.

    The later stages run here too, unless `resources.separate_evaluation` is set.
    """
    task = _task(text)
    step = "train" if task.resources.separate_evaluation else "complete"
    if task.resources.gpus.count < 2:
        return {"train": train_only, "complete": complete}[step](text, run_id, device)
    from retrain.kubeflow.launch import launch

    launch(task.resources.gpus.count, step, text, run_id, device)
    _, context = _open(text, "cpu")
    return next_run.latest_attempt(context.store, context.files(run_id).plan()).run_id


def train_only(text: str, run_id: str, device: str) -> str:
    """Train in this process and the others that torchrun started."""
    return _run_stage(stages.train, text, run_id, device)


def complete(text: str, run_id: str, device: str) -> str:
    """Run all stages after planning in this process, and train in it and the others that torchrun started."""
    return _run_stage(stages.run_stages, text, run_id, device)


def trial(text: str, run_id: str, device: str) -> str:
    """Run all stages of one trial of a study. Trials need no lock: everything they share is created only if absent."""
    _, opened = _open(text, device)
    with run_as_leader(opened) as context:
        plan = context.files(run_id).plan()
        if not _has_ended(context, plan):
            _run_or_record(stages.run_stages, context, plan)
        return run_id


def evaluate(text: str, run_id: str, device: str) -> str:
    """Evaluate a run."""
    return _run_stage(stages.evaluate, text, run_id, device)


def promote(text: str, run_id: str, device: str) -> str:
    """Apply the gate to a run."""
    return _run_stage(stages.promote, text, run_id, device)


def record(text: str, run_id: str, device: str) -> str:
    """Write a run's record."""
    return _run_stage(stages.record, text, run_id, device)


def finish(text: str, submission: str, job: str, state: str, message: str) -> None:
    """Record a failure that no step could record, and exit with 1 if the retraining failed.

    The ledger decides, not the state: Kubeflow's driver reports COMPLETE for a success and RUNNING for a killed pod,
    while kfp on one machine reports SUCCEEDED and FAILED.
    """
    _, context = _open(text, "cpu")
    found = read_submission(context.store, submission) or Submission(error="planning did not end")
    if found.error:
        raise SystemExit(found.error)
    if found.run_id is None or not found.may_run_in(job):
        return
    plan = context.files(found.run_id).plan()
    if _has_approval(context, plan):
        return
    ended = _find_record(context, plan)
    if ended is None:
        with context.store.lock(patient=True) as ours:
            fallback = f"its pods ended without a record (Kubeflow's state: {state})"
            ended = _record_end(replace(context, store=ours), plan, message or fallback)
    if ended.outcome == "failed":
        raise SystemExit(f"{ended.run_id} failed: {ended.error}")


def _has_approval(context: Context, plan: Plan) -> bool:
    """Return whether a verdict decides the run, even if the verdict has only just been given."""
    last = next_run.latest_attempt(context.store, plan)
    return find_approval(context.store, last, context.clock()) is not None


def _record_end(context: Context, plan: Plan, message: str) -> RunRecord:
    last = next_run.latest_attempt(context.store, plan)
    return stages.record_failure(context, last, _read_error(context, last) or message)


def _run_stage(stage: Callable[[Context, Plan], object], text: str, run_id: str, device: str) -> str:
    """Run a stage of a run that has not ended, and return the id of its latest attempt.

    A pod waits while another process holds the task's lock: failing would use up its retries.
    """
    _, opened = _open(text, device)
    with run_as_leader(opened) as first, first.store.lock(patient=True) as ours:
        context = replace(first, store=ours)
        plan = context.files(run_id).plan()
        if not _has_ended(context, plan):
            _run_or_record(stage, context, plan)
        return next_run.latest_attempt(context.store, plan).run_id


def _run_or_record(stage: Callable[[Context, Plan], object], context: Context, plan: Plan) -> None:
    try:
        stage(context, plan)
    except Exception as error:
        if not stages.end_with(context, plan, error):
            _write_error(context, plan, error)
            raise
        log.error("%s", error)


def _open(text: str, device: str) -> tuple[Task, Context]:
    if not log.handlers:  # kfp's handler would mix these lines with its own output
        log.addHandler(make_handler(format_from_environment()))
        log.setLevel(logging.INFO)
        log.propagate = False
    task = _task(text)
    port, host = os.environ.get("RETRAIN_METRICS_PORT"), os.environ.get("RETRAIN_METRICS_HOST", LOOPBACK)
    observers = partial(make_observers, int(port) if port else None, host)
    return task, make_context(open_task_store(task), task, device, observers)


def _task(text: str) -> Task:
    return parse_task(text, "the pipeline's parameter task")


def _has_ended(context: Context, plan: Plan) -> bool:
    return _find_record(context, plan) is not None


def _find_record(context: Context, plan: Plan) -> RunRecord | None:
    return context.store.ledger.find(next_run.latest_attempt(context.store, plan).run_id)


def _write_error(context: Context, plan: Plan, error: Exception) -> None:
    """Write an error for `finish`, in case this was the last retry."""
    last = next_run.latest_attempt(context.store, plan)
    context.store.objects.write(_error_key(context, last), stages.error_text(error).encode())


def _read_error(context: Context, plan: Plan) -> str | None:
    try:
        data, _ = context.store.objects.read(_error_key(context, plan))
    except Missing:
        return None
    return data.decode()


def _error_key(context: Context, plan: Plan) -> str:
    return context.store.keys.run(plan.run_id, "error.txt")


WORKER_STEPS = {"train": train_only, "complete": complete}


def worker_main() -> None:
    """Run the step that the command line names: `python -m retrain.kubeflow.steps STEP TASK RUN DEVICE`.

    `launch`, or torchrun in a TrainJob, starts several of these processes to train together.
    """
    signal.signal(signal.SIGTERM, raise_preempted)
    step, *arguments = sys.argv[1:]
    WORKER_STEPS[step](*arguments)


if __name__ == "__main__":
    worker_main()
