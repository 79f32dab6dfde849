"""Approvals of candidates: one object for each candidate. Its verdict is written once, by compare-and-swap."""

from collections.abc import Iterable
from datetime import datetime

from retrain.errors import RunError
from retrain.records import Approval, Verdict
from retrain.store.base import Conflict, Missing, ObjectStore, read_record
from retrain.store.keys import TaskKeys
from retrain.store.ledger import Ledger
from retrain.utils.clock import format_moment
from retrain.utils.parallel import map_ahead


class Approvals:
    """The approvals of a task."""

    def __init__(self, objects: ObjectStore, keys: TaskKeys, ledger: Ledger) -> None:
        self._objects, self._keys, self._ledger = objects, keys, ledger

    def request(self, approval: Approval) -> Approval:
        """Request approval of a candidate. Return the stored request, or an earlier request if there is one."""
        try:
            self._objects.create(self._keys.approval(approval.run_id), approval.to_bytes())
        except Conflict:
            return self._read(approval.run_id)[0]
        return approval

    def find(self, run_id: str) -> Approval | None:
        """Return a candidate's approval, or None if none was requested."""
        try:
            return self._read(run_id)[0]
        except Missing:
            return None

    def unfinished(self) -> list[Approval]:
        """Return the approvals of runs that are not in the ledger yet, oldest request first.

        They have no verdict, or the process that wrote the verdict died before the run was recorded.
        """
        requested = self.run_ids()
        return self.read(requested - self._ledger.run_ids()) if requested else []

    def run_ids(self) -> set[str]:
        """Return the ids of all runs that approval was requested for, finished or not."""
        prefix = self._keys.approvals
        return {entry.key.removeprefix(prefix).removesuffix(".json") for entry in self._objects.list(prefix)}

    def read(self, run_ids: Iterable[str]) -> list[Approval]:
        """Return the approvals of these runs, oldest request first."""
        found = map_ahead(self._read, sorted(run_ids))
        return sorted((approval for approval, _ in found), key=lambda approval: approval.requested_at)

    def decide(self, run_id: str, verdict: Verdict) -> Approval:
        """Write a candidate's verdict. Raises `RunError` if it awaits no verdict, or if another was written first."""
        try:
            approval, version = self._read(run_id)
        except Missing:
            raise RunError(f"{run_id} does not await approval; `retrain status` names the candidates that do") from None
        if approval.verdict:
            raise RunError(f"{run_id} was already decided on {format_moment(approval.verdict.at)}: {approval.verdict}")
        decided = approval.model_copy(update={"verdict": verdict})
        try:
            self._objects.replace(self._keys.approval(run_id), decided.to_bytes(), version)
        except Conflict as conflict:
            raise RunError(
                f"{run_id} has just been decided by another process or person; see `retrain status`"
            ) from conflict
        return decided

    def expire(self, approval: Approval, now: datetime) -> Approval:
        """Return the approval. If its time is over without a verdict, write the verdict that it has expired."""
        verdict = approval.verdict_at(now)
        if verdict is None or approval.verdict:
            return approval
        try:
            return self.decide(approval.run_id, verdict)
        except RunError:  # a person decided at the last moment
            return self._read(approval.run_id)[0]

    def _read(self, run_id: str) -> tuple[Approval, str]:
        return read_record(self._objects, self._keys.approval(run_id), Approval)
