"""The expectations of an audit about a store, and its findings."""

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


class Years(NamedTuple):
    """The objects that a long scenario must leave besides its runs, and its last output for users."""

    history: Sequence[Entry]
    """The history of champions of the undisturbed scenario."""
    inherited: int
    """Number of entries of the history that existed when the scenario began."""
    keys: frozenset[str]
    """The objects that the undisturbed scenario left."""
    erased: Sequence[bytes]
    """Files of the erased samples."""
    outputs: Mapping[str, str]
    """Output of `retrain history --json`, `status --json` and `metrics`, by command."""


class Expected(NamedTuple):
    """The required result of a scenario."""

    drops: Mapping[str, str]
    """The drops that landed: `committed` or `quarantined`, by id."""
    runs: Mapping[str, Digests]
    """The result of each undisturbed run, by its id. These runs, and no others, must have a record."""
    saved: int
    """Sum of the ledger's gross savings, in iterations."""
    years: Years | None = None
    """Expectations of a long scenario. None for short ones."""
