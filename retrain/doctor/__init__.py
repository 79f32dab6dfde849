"""Checks of what may keep a task from running here; `examination.examine` does them all.

This file defines what a check is. Imports pipeline and what is below it.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from retrain.errors import UserError
from retrain.records.base import Record


class Finding(Record):
    """The outcome of one check."""

    check: str
    """What was looked at: store, credentials, conditional writes, clock, disk, device, model, champion, plan,
    kubeflow."""
    state: Literal["ok", "warning", "failed"]
    """A warning keeps nothing from running."""
    found: str
    """What there is, or what is wrong with it."""
    mend: str | None = None
    """What to do about it; None where there is nothing to do, or `found` says it."""


class Check(NamedTuple):
    """A name, and what returns the finding of that name; what it raises as `UserError` is a failure."""

    name: str
    look: Callable[[], Finding | str]

    def run(self) -> Finding:
        """Return the finding; text alone means that all is well."""
        try:
            found = self.look()
        except UserError as error:
            return Finding(check=self.name, state="failed", found=str(error))
        return Finding(check=self.name, state="ok", found=found) if isinstance(found, str) else found
