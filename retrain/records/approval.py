"""The approval of a candidate: the request, and a person's verdict."""

from datetime import datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime

from retrain.records.base import Record
from retrain.utils.clock import format_moment


class Verdict(Record):
    """The decision about a candidate. `expired`: no person decided in time, so the candidate was refused."""

    kind: Literal["approved", "rejected", "expired"]
    author: str | None
    """Person who decided. None if the approval expired."""
    reason: str | None
    """The author's reason, if one was given."""
    at: AwareDatetime

    def __str__(self) -> str:
        """Return the verdict as a phrase: it becomes a reason of the gate's decision."""
        if self.kind == "expired":
            return f"no approval came before {format_moment(self.at)} (gate.approval_timeout)"
        return f"{self.kind} by {self.author}" + (f": {self.reason}" if self.reason else "")


class Approval(Record):
    """`approvals/<run-id>.json`: a candidate that passed the gate and waits for a verdict. A verdict never changes."""

    run_id: str
    requested_at: AwareDatetime
    expires_at: AwareDatetime
    verdict: Verdict | None = None
    """The verdict. None while the candidate waits."""

    @classmethod
    def requested(cls, run_id: str, at: datetime, timeout: timedelta) -> "Approval":
        """Return a new approval, without a verdict."""
        return cls(run_id=run_id, requested_at=at, expires_at=at + timeout)

    def verdict_at(self, now: datetime) -> Verdict | None:
        """Return the verdict. After `expires_at`, an approval without a verdict counts as expired."""
        if self.verdict or now < self.expires_at:
            return self.verdict
        return Verdict(kind="expired", author=None, reason=None, at=self.expires_at)

    def describe(self, task: str, now: datetime) -> str:
        """Return a sentence with the commands that approve or reject the run. `task` is the value of `--task` in them.

        After the verdict, or after `expires_at`, the sentence names the command that records the decision.
        """
        if verdict := self.verdict_at(now):
            return (
                f"{self.run_id} passed the gate; {verdict}; the watcher, or `retrain run --task {task}`, records the "
                "verdict"
            )
        return (
            f"{self.run_id} passed the gate and awaits approval until {format_moment(self.expires_at)}: "
            f"`retrain approve {self.run_id} --task {task}`, or "
            f"`retrain reject {self.run_id} --task {task} --reason WHY`"
        )
