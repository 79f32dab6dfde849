"""Runs on Kubeflow, for those who stay light: kfp and torch do their part in processes apart."""

import logging
from typing import NamedTuple

from pipelines import submissions
from pipelines.submissions import Submission
from retrain.config import Task
from retrain.layout import Layout
from retrain.records import Plan
from retrain.store import open_store
from retrain.store.base import Store
from retrain.trigger.apart import apart

SUBMIT_SECONDS = 120.0
"""The longest that the API server may take."""
OVER = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
"""KFP's states of runs that do nothing any more."""

log = logging.getLogger("retrain")


class Submitted(NamedTuple):
    """A run as the API server has it."""

    id: str
    state: str | None
    """PENDING, RUNNING, SUCCEEDED, FAILED, CANCELED, ...; None before the server knows."""
    new: bool
    """Whether it was submitted by this very call."""


def submit(task: Task, plan: Plan, store: Store) -> Submitted:
    """Submit a plan that is in the store, unless it was before. Raises `SubmitError`.

    The submission is bound to the plan first, so that its pods do this run whatever lands in the meantime.
    """
    submissions.write(store, Layout(task.name), plan.run_id, Submission(run_id=plan.run_id))
    return apart(SUBMIT_SECONDS, _submit, task, plan.run_id)


class OnKubeflow:
    """Submits the watcher's runs, and looks after them."""

    def ensure(self, task: Task, plan: Plan, store: Store) -> bool:
        """Submit the run unless it was; record it as failed if it is over without a record. Raises `SubmitError`."""
        submitted = submit(task, plan, store)
        if submitted.new:
            log.info("%s: %s is submitted as %s", task.name, plan.run_id, submitted.id)
        elif submitted.state in OVER:
            apart(SUBMIT_SECONDS, _record_failure, task, plan, f"its Kubeflow run {submitted.id} {submitted.state}")
        return submitted.new


def _submit(task: Task, run_id: str) -> Submitted:
    from pipelines.cluster import submit_by_name

    return submit_by_name(task, run_id)


def _record_failure(task: Task, plan: Plan, error: str) -> None:
    """Give a run a record, unless it has got one just now."""
    from retrain import stages
    from retrain.machine import make_context

    context = make_context(open_store(task.store, task.endpoint_url), Layout(task.name), "cpu")
    stages.record_failure(context, plan, f"{error}, without a record")
