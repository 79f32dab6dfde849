"""What a submission is for, `<task>/submissions/<id>.json`: how its last step finds what its first one planned.

A submitter that has planned already writes it first: then the submission's pods do that very run. Kubeflow Pipelines
lets several jobs have one name, so a submitter that froze in mid-request may submit once more: the pods of all jobs but
the one that is named here do nothing.
"""

from retrain.layout import Layout
from retrain.records import Record, parsed
from retrain.store.base import Missing, Store


class Submission(Record):
    """What planning came to: a run, nothing to do and why, or an error of the task or its data."""

    run_id: str | None = None
    """The run that was planned; it may have escalated to another since."""
    nothing: str | None = None
    error: str | None = None
    job: str | None = None
    """Kubeflow's id of the job that does it; None: whichever comes."""

    def is_left_to(self, job: str) -> bool:
        """Whether this job may do it."""
        return self.job in (None, job)


def write(store: Store, layout: Layout, submission_id: str, submission: Submission) -> None:
    """Keep what planning came to."""
    store.write(layout.submission(submission_id), submission.to_bytes())


def read(store: Store, layout: Layout, submission_id: str) -> Submission | None:
    """Return what planning came to, or None if it never ended."""
    key = layout.submission(submission_id)
    try:
        data, _ = store.read(key)
    except Missing:
        return None
    return parsed(Submission, data, f"{store.url}/{key}")
