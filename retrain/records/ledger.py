"""The record of an ended run, its savings, and the history of champions."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from retrain.config import Method, Metric, Purpose
from retrain.config.task import Costs
from retrain.records.base import Record
from retrain.records.plan import ScratchEstimate, Target
from retrain.records.run import Decision, Evaluation, Outcome, Result


class Savings(Record):
    """The iterations that a run saved compared with training from scratch.

    All fields are numbers of iterations. `baseline` is s_scratch: the iterations on the run's dataset after which
    scratch first reaches its final accuracy. `whole` is scratch's full schedule. `gross` = baseline - used counts only
    training. `net` = baseline - used_all_in also counts evaluations (an evaluated batch costs a third of an iteration)
    and calibrations (whose gross savings are 0). `gross_whole` and `net_whole` use `whole` in place of `baseline`.

    Some runs replace no scratch training, so their `baseline` and `whole` are 0 and their savings are negative. These
    are runs without a model at the target (plateau, missed, diverged, failed), runs that the gate refuses, and later
    retrainings on the same dataset. In a scratch retraining, `baseline` and `whole` are the iterations that it used, so
    its savings are 0.
    """

    baseline: int
    whole: int
    used: int
    used_all_in: float
    gross: int
    net: float
    gross_whole: int
    net_whole: float
    standard_error: float = 0.0
    """Standard error of `baseline`, `gross` and `net`. The errors of several runs are added, because the runs are
    compared with the same scratch runs."""

    def __add__(self, other: "Savings") -> "Savings":
        """Return the sum of both."""
        return Savings(**{name: getattr(self, name) + getattr(other, name) for name in Savings.model_fields})


NO_SAVINGS = Savings(baseline=0, whole=0, used=0, used_all_in=0, gross=0, net=0, gross_whole=0, net_whole=0)


DIVERGED = (
    "its loss was not finite. Set a lower training.optimizer.learning_rate, set training.clip_norm, or set "
    "training.bf16 to false, and start the run again"
)
"""Cause and advice for a run with the outcome `diverged`."""


class RunRecord(Record):
    """One ended run, `ledger/<run-id>.json`, written last. Reports and metrics read only these records."""

    run_id: str
    task: str
    method: Method
    purpose: Purpose
    outcome: Outcome | Literal["failed"]
    error: str | None
    dataset_digest: str
    drops: tuple[str, ...]
    new_drops: tuple[str, ...]
    parent: str | None
    attempt: int
    seed: int
    scale: float
    metric: Metric = "accuracy"
    """Metric that scored the run's model."""
    target: Target | None
    scratch: ScratchEstimate | None = None
    """Scratch's iterations on this dataset. None for a run that measured them."""
    result: Result | None
    evaluation: Evaluation | None
    decision: Decision | None
    savings: Savings | None
    costs: Costs = Costs()
    """The task's `costs` when the run ended."""
    followed_by: str | None = None
    """Id of the next run of this retraining, if this run missed its target and was escalated."""
    stage_seconds: dict[str, float] = Field(default_factory=dict)
    """Seconds that each stage of the pipeline took in the process that wrote this record."""
    started_at: AwareDatetime
    ended_at: AwareDatetime

    @property
    def ending(self) -> str:
        """Return the result of the run in one word."""
        if self.decision:
            return "promoted" if self.decision.promoted else "refused"
        if self.purpose == "calibrate" and self.outcome == "completed":
            return "calibrated"
        if self.purpose == "trial" and self.outcome in ("completed", "reached"):
            return "trial"
        return self.outcome


def is_reached_within_error(record: RunRecord) -> bool:
    """Return whether a run ended as `reached` although its last score on the target's samples is below the target."""
    if record.outcome != "reached" or record.result is None or record.target is None:
        return False
    score = record.result.in_scope if record.target.scope else record.result.final_score
    return score is not None and score < record.target.accuracy


PromotionReason = Literal["promoted", "approved", "promoted by hand", "rolled back"]


class Promotion(Record):
    """One entry of the champions' history."""

    sequence: int
    run_id: str
    why: PromotionReason
    at: AwareDatetime
    author: str | None = None
    """The person who approved, promoted or rolled back. None if the gate decided."""
    reason: str | None = None
    """The reason that this person gave."""
    write_id: str | None = None
    """Random name of the write. Two processes that promote the same run in the same microsecond would otherwise write
    equal bytes, and the store would report success to both. None in older records."""


class Champion(Record):
    """The promoted models, in `champion.json`. It is replaced only by compare-and-swap. The last of `history` is the
    champion."""

    history: Annotated[tuple[Promotion, ...], Field(min_length=1)]

    @property
    def run_id(self) -> str:
        """Return the id of the champion's run."""
        return self.history[-1].run_id


def is_baseline(record: RunRecord) -> bool:
    """Return whether targets may come from this run."""
    return record.method == "scratch" and record.outcome == "completed" and record.purpose != "trial"


def total_savings(records: Iterable[RunRecord]) -> Savings:
    """Return the total savings of a ledger's runs."""
    return sum((record.savings for record in records if record.savings), NO_SAVINGS)
