"""Find problems that may prevent a task's runs on this machine. `examination.examine` does all checks.

This file defines the checks' types. The package imports `pipeline` and the packages below it.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from retrain.errors import UserError
from retrain.records.base import Record


class Finding(Record):
    """The outcome of one check."""

    check: str
    """Name of the check: credentials, store, conditional writes, clock, files of drops, disk, device, model, champion,
    plan, MLflow, Model Registry or kubeflow."""
    state: Literal["ok", "warning", "failed"]
    """A failure prevents the next run. A warning does not."""
    found: str
    """Result of the check, or the problem."""
    mend: str | None = None
    """Advice. None if nothing needs to be done, or if `found` already contains it."""


class Check(NamedTuple):
    """A named check: a function that returns its finding. A `UserError` that it raises counts as a failure."""

    name: str
    examine: Callable[[], Finding | str]

    def run(self) -> Finding:
        """Return the finding. If `examine` returns only text, the check has passed."""
        try:
            found = self.examine()
        except UserError as error:
            return Finding(check=self.name, state="failed", found=str(error))
        return Finding(check=self.name, state="ok", found=found) if isinstance(found, str) else found
