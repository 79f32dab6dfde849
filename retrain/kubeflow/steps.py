"""Run the pipeline's steps: call the stages, and separate permanent errors from errors that a retry may fix.

KFP retries a failed pod after any error. So a step fails only with errors that a retry may fix: a preempted machine, an
unreachable store, or an unexpected error. Any other `UserError`, such as a damaged drop, is written
into the ledger, and the step succeeds. The later steps find that the run has ended, and `finish` fails.
Kubeflow still shows such a run as succeeded, because Argo ignores the result of an exit handler. Only the ledger has
the true result.

The steps that train or evaluate import torch when they are called. Planning then starts quickly.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast, get_args

from retrain.config import Method, Purpose
from retrain.config.task import Task
from retrain.errors import UserError
from retrain.kubeflow.last_step import find_record, finish, open_store, write_error
from retrain.kubeflow.parameter import Parameter
from retrain.kubeflow.records import Submission, read_submission, write_submission
from retrain.monitoring.observers import LOOPBACK, make_observers
from retrain.pipeline import next_run, stages
from retrain.pipeline.planning import NoRunNeeded, Request
from retrain.pipeline.record_context import RecordContext
from retrain.records import Plan
from retrain.training.preemption import raise_preempted

if TYPE_CHECKING:
    from retrain.pipeline.context import Context

__all__ = ["finish"]

log = logging.getLogger("retrain")


def plan(parameter: Parameter, method: str, purpose: str, submission: str, job: str) -> str:
    """Return the id of the run that is already planned for a submission, or plan the next run and return its id.

    Return an empty text if no run is needed, or if another job executes this submission.
    """
    task, store = open_store(parameter)
    found = read_submission(store, submission)
    if found is None:
        with store.lock(patient=True) as locked:
            found = read_submission(locked, submission)  # another pod may have planned it meanwhile
            if found is None:
                found = _plan(RecordContext(locked, factories=task.allowed_factories), task, method, purpose)
                write_submission(locked, submission, found)
    if not found.may_run_in(job):
        log.info("nothing to do: job %s already runs submission %s", found.job, submission)
        return ""
    return found.run_id or ""


def _plan(context: RecordContext, task: Task, method: str, purpose: str) -> Submission:
    try:
        planned = stages.plan(context, task, request(method, purpose))
    except UserError as error:
        if not stages.is_permanent(error):
            raise
        return Submission(error=str(error))
    if isinstance(planned, NoRunNeeded):
        log.info("nothing to do: %s", planned.reason)
        return Submission(nothing=planned.reason, awaits_approval=planned.awaits_approval)
    return Submission(run_id=planned.run_id)


def request(method: str, purpose: str) -> Request:
    """Return the request in the pipeline's parameters. An empty method means that planning chooses the method."""
    given = (("method", method or "scratch", get_args(Method)), ("purpose", purpose, get_args(Purpose)))
    for name, word, allowed in given:
        if word not in allowed:
            raise UserError(f"the pipeline's parameter {name}: {word!r} must be one of {', '.join(allowed)}")
    return Request(cast(Method, method) if method else None, cast(Purpose, purpose))


def train(parameter: Parameter, run_id: str, device: str) -> str:
    """Train a run and its escalations, with a process for each GPU, and return the id of the last run.

    The later stages run in this step too, unless `resources.separate_evaluation` is set.
    """
    task, store = open_store(parameter)
    step = "train" if task.resources.separate_evaluation else "complete"
    if task.resources.gpus.count < 2:
        return {"train": train_only, "complete": complete}[step](parameter, run_id, device)
    from retrain.kubeflow.launch import launch

    launch(task.resources.gpus.count, step, task.model_dump_json(), run_id, device)
    return next_run.latest_attempt(store, store.run(run_id).plan()).run_id


def train_only(parameter: Parameter, run_id: str, device: str) -> str:
    """Train in this process, together with the other processes that torchrun started."""
    return _run_stage(stages.train, parameter, run_id, device)


def complete(parameter: Parameter, run_id: str, device: str) -> str:
    """Run all stages after planning in this process. All processes that torchrun started train together."""
    return _run_stage(stages.run_stages, parameter, run_id, device)


def trial(parameter: Parameter, run_id: str, device: str) -> str:
    """Run all stages of one trial of a study.

    Trials need no lock, because shared objects are created only if absent.
    """
    from retrain.pipeline.train import run_as_leader

    opened = _open(parameter, device)
    with run_as_leader(opened) as context:
        plan = context.files(run_id).plan()
        if not _has_ended(context, plan):
            _run_or_record(stages.run_stages, context, plan)
        return run_id


def evaluate(parameter: Parameter, run_id: str, device: str) -> str:
    """Evaluate a run."""
    return _run_stage(stages.evaluate, parameter, run_id, device)


def promote(parameter: Parameter, run_id: str, device: str) -> str:
    """Apply the gate to a run."""
    return _run_stage(stages.promote, parameter, run_id, device)


def record(parameter: Parameter, run_id: str, device: str) -> str:
    """Write a run's record."""
    return _run_stage(stages.record, parameter, run_id, device)


def _run_stage(stage: Callable[["Context", Plan], object], parameter: Parameter, run_id: str, device: str) -> str:
    """Run a stage of a run that has not ended. Return the run's id, or the id of the last run that followed it.

    While another process holds the task's lock, the pod waits. If it failed instead, it would use up its retries.
    """
    from retrain.pipeline.train import run_as_leader

    opened = _open(parameter, device)
    with run_as_leader(opened) as first, first.store.lock(patient=True) as locked:
        context = replace(first, store=locked)
        plan = context.files(run_id).plan()
        if not _has_ended(context, plan):
            _run_or_record(stage, context, plan)
        return next_run.latest_attempt(context.store, plan).run_id


def _run_or_record(stage: Callable[["Context", Plan], object], context: "Context", plan: Plan) -> None:
    try:
        stage(context, plan)
    except Exception as error:
        if not stages.end_with(context, plan, error):
            write_error(context.store, plan, stages.error_text(error))
            raise
        log.error("%s", error)


def _open(parameter: Parameter, device: str) -> "Context":
    from retrain.pipeline.context import make_context

    task, store = open_store(parameter)
    port, host = os.environ.get("RETRAIN_METRICS_PORT"), os.environ.get("RETRAIN_METRICS_HOST", LOOPBACK)
    observers = partial(make_observers, int(port) if port else None, host)
    return make_context(store, task, device, observers)


def _has_ended(context: "Context", plan: Plan) -> bool:
    return find_record(context.store, plan) is not None


WORKER_STEPS = {"train": train_only, "complete": complete}


def worker_main() -> None:
    """Run the step that the command line names: `python -m retrain.kubeflow.steps STEP TASK RUN DEVICE`.

    `launch`, or torchrun in a TrainJob, starts several of these processes to train together. A `UserError`, such as a
    task file for a newer version of retrain, is logged as one message and ends the process with exit code 2.
    """
    signal.signal(signal.SIGTERM, raise_preempted)
    step, *arguments = sys.argv[1:]
    try:
        WORKER_STEPS[step](*arguments)
    except UserError as error:
        log.error("%s", error)
        sys.exit(2)


if __name__ == "__main__":
    worker_main()
