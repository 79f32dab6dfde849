"""Records of submissions to Kubeflow, in the store and on the API server. Imports no kfp."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from retrain.config.task import Task
from retrain.records import Record
from retrain.store.base import Missing, read_record
from retrain.store.task_store import TaskStore

if TYPE_CHECKING:
    from kfp.dsl.graph_component import GraphComponent

PipelineBuilder = Callable[[Task], "GraphComponent"]
"""Function that builds the KFP pipeline of a task. A subprocess must be able to import it by name."""

ENDED_STATES = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
"""KFP's states of runs that have ended."""


class Submitted(NamedTuple):
    """A run on Kubeflow."""

    id: str
    state: str | None
    """State of the run: PENDING, RUNNING, SUCCEEDED, FAILED, CANCELED, .... None if the server has not set it yet."""
    new: bool
    """Whether this call submitted the run."""


class Registered(NamedTuple):
    """A version of a task's pipeline in Kubeflow's list of pipelines."""

    pipeline: str
    version: str
    new: bool
    """Whether this call registered the version."""


class Submission(Record):
    """The result of planning: a run, the reason why none is needed, or an error in the task or its data."""

    run_id: str | None = None
    """The run that was planned. Another run may have followed it since (escalation)."""
    nothing: str | None = None
    """The reason why no run is needed."""
    awaits_approval: bool = False
    """Whether no run is needed because a candidate awaits approval."""
    error: str | None = None
    job: str | None = None
    """Kubeflow's id of the job that executes the run. None: any job may execute it."""

    def may_run_in(self, job: str) -> bool:
        """Return whether this job may execute the run."""
        return self.job in (None, job)


def write_submission(store: TaskStore, submission_id: str, submission: Submission) -> None:
    """Write the result of planning."""
    store.objects.write(store.keys.submission(submission_id), submission.to_bytes())


def read_submission(store: TaskStore, submission_id: str) -> Submission | None:
    """Return the result of planning, or None if planning has not ended."""
    try:
        return read_record(store.objects, store.keys.submission(submission_id), Submission)[0]
    except Missing:
        return None
