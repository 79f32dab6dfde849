"""The content that an audit expects in a store, and the errors that it finds."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

Kind = Literal["lost", "torn", "forked"]
Digests = tuple[str, str, str]
"""Digests of a run's model, learning-speed index and curve."""
Entry = tuple[str, str, str | None, str | None]
"""An entry of the champions' history: the run, the kind of promotion, the author and the reason."""


class Finding(NamedTuple):
    """One error that the audit has found."""

    kind: Kind
    where: str
    what: str


class LongExpected(NamedTuple):
    """The content that a long scenario must leave in its store besides runs, and the output of its last commands."""

    history: Sequence[Entry]
    """The history of champions of the undisturbed scenario."""
    inherited: int
    """Number of entries of the history that existed when the scenario began."""
    keys: frozenset[str]
    """Keys of the objects that the undisturbed scenario left."""
    erased: Sequence[bytes]
    """Files of the erased samples."""
    outputs: Mapping[str, str]
    """Output of `retrain history --json`, `status --json` and `metrics`, by command."""


class Expected(NamedTuple):
    """The required result of a scenario."""

    drops: Mapping[str, str]
    """State of each drop that landed, `committed` or `quarantined`, by the drop's id."""
    runs: Mapping[str, Digests]
    """The result of each undisturbed run, by its id. These runs, and no others, must have a record."""
    saved: int
    """Sum of the ledger's gross savings, in iterations."""
    long: LongExpected | None = None
    """Further expectations of a long scenario. None for a short scenario."""
