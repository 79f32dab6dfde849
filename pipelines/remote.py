"""Runs on Kubeflow, for those who stay light: kfp and torch do their part in processes apart."""

import logging

from pipelines import submissions
from pipelines.jobs import OVER, Submitted
from pipelines.submissions import Submission
from retrain import next_run
from retrain.apart import apart
from retrain.config import Task
from retrain.errors import ModelError
from retrain.layout import Layout
from retrain.records import Plan
from retrain.store import open_store
from retrain.store.base import Store

SUBMIT_SECONDS = 120.0
"""The longest that the API server may take."""
log = logging.getLogger("retrain")


def submit(task: Task, plan: Plan, store: Store) -> Submitted:
    """Submit a plan that is in the store, unless it was before.

    The submission is bound to the plan first, so that its pods do this run whatever lands in the meantime; then to the
    job, so that no other of the same name does it too. Raises `SubmitError`, and `ModelError` before anything is
    submitted.
    """
    layout = Layout(task.name)
    bound = submissions.read(store, layout, plan.run_id)
    if bound is None:
        apart(SUBMIT_SECONDS, next_run.check, plan, True)
        bound = Submission(run_id=plan.run_id)
        submissions.write(store, layout, plan.run_id, bound)
    submitted = apart(SUBMIT_SECONDS, _submit, task, plan.run_id)
    if bound.job != submitted.id:
        submissions.write(store, layout, plan.run_id, bound.model_copy(update={"job": submitted.id}))
    return submitted


class OnKubeflow:
    """Submits the watcher's runs, and looks after them."""

    def ensure(self, task: Task, plan: Plan, store: Store) -> bool:
        """Submit the run unless it was; record it as failed if it cannot begin, or is over without a record.

        Raises `SubmitError`.
        """
        try:
            submitted = submit(task, plan, store)
        except ModelError as error:
            apart(SUBMIT_SECONDS, _record_failure, task, plan, str(error))
            return False
        if submitted.new:
            log.info("%s: %s is submitted as %s", task.name, plan.run_id, submitted.id)
        elif submitted.state in OVER:
            said = f"its Kubeflow run {submitted.id} {submitted.state}, without a record"
            apart(SUBMIT_SECONDS, _record_failure, task, plan, said)
        return submitted.new


def _submit(task: Task, run_id: str) -> Submitted:
    from pipelines.cluster import submit_by_name

    return submit_by_name(task, run_id)


def _record_failure(task: Task, plan: Plan, error: str) -> None:
    """Give a run a record, unless it has got one just now."""
    from retrain import stages
    from retrain.machine import make_context

    context = make_context(open_store(task.store, task.endpoint_url), task, "cpu")
    stages.record_failure(context, plan, error)
