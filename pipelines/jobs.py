"""Runs as the API server of Kubeflow Pipelines has them."""

from typing import NamedTuple

OVER = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
"""KFP's states of runs that do nothing any more."""


class Submitted(NamedTuple):
    """A run there."""

    id: str
    state: str | None
    """PENDING, RUNNING, SUCCEEDED, FAILED, CANCELED, ...; None before the server knows."""
    new: bool
    """Whether it was submitted by this very call."""
