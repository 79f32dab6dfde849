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
"""Build the KFP pipeline of a task. It crosses into a subprocess, so it must be importable by its name."""

ENDED_STATES = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
"""KFP's states of runs that do nothing any more."""


class Submitted(NamedTuple):
    """A run there."""

    id: str
    state: str | None
    """PENDING, RUNNING, SUCCEEDED, FAILED, CANCELED, ...; None before the server knows."""
    new: bool
    """Whether it was submitted by this very call."""


class Submission(Record):
    """The outcome of planning: a run, the reason why none is needed, or an error of the task or its data."""

    run_id: str | None = None
    """The run that was planned; it may have escalated to another since."""
    nothing: str | None = None
    error: str | None = None
    job: str | None = None
    """Kubeflow's id of the job that does it; None: whichever comes."""

    def is_left_to(self, job: str) -> bool:
        """Whether this job may do it."""
        return self.job in (None, job)


def write_submission(store: TaskStore, submission_id: str, submission: Submission) -> None:
    """Write the outcome of planning."""
    store.objects.write(store.keys.submission(submission_id), submission.to_bytes())


def read_submission(store: TaskStore, submission_id: str) -> Submission | None:
    """Return the outcome of planning, or None if it never ended."""
    try:
        return read_record(store.objects, store.keys.submission(submission_id), Submission)[0]
    except Missing:
        return None
