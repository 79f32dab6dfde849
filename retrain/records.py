"""What stages hand to each other and the store keeps: frozen records, each one JSON object, written once.

Accuracies are shares (0..1), iterations are optimiser steps, times are UTC, durations are seconds.
"""

import hashlib
import json
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from retrain.config import Task
from retrain.recipe.settings import Recipe
from retrain.words import Method, Purpose, Split


class Record(BaseModel):
    """A frozen record that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, so equal records are equal bytes."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1).encode() + b"\n"


def digest(content: object) -> str:
    """SHA-256, in hex, of a JSON-able object's canonical form."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


# Data --------------------------------------------------------------------------------------------------------------


class Shard(Record):
    """One tar of a drop. `name` is relative to the drop; `sha256` is of its bytes."""

    name: str
    split: Split
    samples: int
    size: int
    sha256: str


class Drop(Record):
    """A drop's manifest, `drops/<id>/drop.json`: written last, it makes the drop visible.

    `classes` are this drop's class names in order of first appearance in its shards; `counts[split][class]` are
    samples after holding out. A split without shards of its own is held out of train by a hash of the sample key:
    `held_out[split]` is its share, fixed here for good. `digest` covers everything but `id` and `committed_at`.
    """

    id: str
    task: str
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    counts: dict[Split, dict[str, int]]
    held_out: dict[Split, float]
    digest: str
    committed_at: datetime

    def samples(self, split: Split) -> int:
        """Number of samples in a split."""
        return sum(self.counts.get(split, {}).values())


class DropRef(Record):
    """A drop as a dataset names it."""

    id: str
    digest: str
    samples: int
    """Training samples."""


class Dataset(Record):
    """An ordered list of drops and the class map over them: class k is `classes[k]`, append-only."""

    drops: tuple[DropRef, ...]
    classes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Identity of the data: the drops' digests, in order."""
        return digest([drop.digest for drop in self.drops])

    @property
    def samples(self) -> int:
        """Training samples."""
        return sum(drop.samples for drop in self.drops)


# A run -------------------------------------------------------------------------------------------------------------


class Target(Record):
    """What a run must reach on val, and where that figure comes from.

    `accuracy` is level/100 of the baseline's. `measured`: the baseline saw this very dataset; `carried`: drops have
    landed since, `age` of them.
    """

    level: float
    accuracy: float
    baseline_run: str
    baseline_accuracy: float
    baseline_iterations: int
    """s_scratch: when the baseline's curve first reached `accuracy`."""
    baseline_reached_at: dict[Literal["99", "100"], int | None]
    """The same at 99 and 100 percent of its accuracy."""
    provenance: Literal["measured", "carried"]
    age: int


class Origin(Record):
    """The first initialization of a lineage of models: that of a scratch run with this seed, on so many drops."""

    seed: int
    drops: int
    classes: int


class Plan(Record):
    """Everything that decides a run, pinned. The same plan is the same run.

    `purpose`: `retrain` yields a candidate; `calibrate` only measures the baseline; `trial` is compared and never
    promoted. `attempt` counts the escalations of one retraining, from 0; `earlier` are the runs that missed before it.
    """

    task: Task
    method: Method
    purpose: Purpose
    attempt: int
    earlier: tuple[str, ...]
    retry: int
    """How many runs of this very plan failed before (by an error, not by a miss)."""
    parent: str | None
    known: int
    """The first this many drops of the dataset are old: the parent saw them."""
    dataset: Dataset
    recipe: Recipe
    """Resolved: the schedule's scale is a number."""
    iterations: int
    """Length of the schedule."""
    evaluate_every: int
    """Iterations between evaluations."""
    target: Target | None
    """None: the run ends with its schedule."""
    origin: Origin
    seed: int
    reason: str

    @property
    def run_id(self) -> str:
        """`<method>-<digest of the plan>`: of what decides the training, not where it is kept or how it is judged."""
        aside = {"store", "endpoint_url", "gate"}
        content = self.model_dump(mode="json", exclude={"reason": True, "task": aside})
        return f"{self.method}-{digest(content)[:12]}"


class Point(Record):
    """One evaluation of a run on val.

    `accuracy` is over `images` of val's samples; fewer than all of them means that the rest could not have lifted it
    to any level of interest.
    """

    iteration: int
    accuracy: float
    loss: float | None
    images: int
    train_loss: float | None
    """Mean since the point before; None, like `loss`, where it is not finite."""
    learning_rate: float


class Curve(Record):
    """A run's evaluations in the order of their iterations, `curve.jsonl`."""

    points: tuple[Point, ...] = ()


class Cost(Record):
    """What a run consumed. Figures ending in `all_in` include evaluation, data and saving."""

    iterations: int
    samples: int
    evaluated_images: int
    flops: float
    flops_all_in: float
    device_seconds: float
    device_seconds_all_in: float


class Machine(Record):
    """What ran it: enough to repeat a figure."""

    retrain: str
    torch: str
    device: str
    threads: int


class Result(Record):
    """How a training ended, `result.json`: what exists under the run is whole once this is written.

    `reached`: stopped at the target. `missed`: the schedule ended below it. `completed`: there was no target.
    `diverged`: the loss was not finite.
    """

    outcome: Literal["reached", "missed", "completed", "diverged"]
    iterations: int
    final_accuracy: float
    """On val, of the weights that the run ended with: a_scratch, if this becomes the baseline."""
    best_accuracy: float
    """Highest accuracy on the whole of val."""
    reached_at: dict[Literal["99", "100"], int | None]
    """First iteration on the grid at 99 and 100 percent of the baseline's accuracy (of this run's own final accuracy,
    where it has no target): s(f, a), Verwimp et al., eq. 1."""
    speed_up: dict[Literal["99", "100"], float | None]
    """L_99 and L_100 against the baseline, Verwimp et al., eq. 2; None where not reached."""
    model_digest: str | None
    """SHA-256 of model.safetensors; None for a diverged run, which leaves no model."""
    index_digest: str | None
    """SHA-256 over the learning-speed counters of all drops, in order."""
    cost: Cost
    machine: Machine
    started_at: datetime
    ended_at: datetime


class Interval(Record):
    """A figure and its confidence interval."""

    value: float
    low: float
    high: float


class Comparison(Record):
    """Candidate against champion, both measured now on the same test samples."""

    champion: str
    champion_accuracy: float
    difference: Interval
    negative_flips: float
    """Share of test samples that the champion had right and the candidate has wrong."""


class Evaluation(Record):
    """Accuracy on the held-out test split, `evaluation.json`.

    `old` and `new` are over the test samples of drops that the parent knew and did not; None where there are none.
    """

    samples: int
    accuracy: float
    old: float | None
    new: float | None
    by_class: dict[str, float]
    comparison: Comparison | None


class Decision(Record):
    """The gate's decision, with a sentence for every condition that failed."""

    promoted: bool
    reasons: tuple[str, ...]


class Savings(Record):
    """What a run saved against training from scratch, in iterations.

    `gross` = baseline - used: training alone, missed attempts included. `net` = baseline - used_all_in: evaluation
    too, a third of an iteration a batch, and calibrations, which gross leaves out (0). A run that yields no model at
    the target (missed, diverged) has baseline 0: its whole use is a loss. A scratch retraining is its own baseline.
    """

    baseline: int
    used: int
    used_all_in: float
    gross: int
    net: float


class RunRecord(Record):
    """One ended run, `ledger/<run-id>.json`, written last. Every figure on a dashboard comes from these."""

    run_id: str
    task: str
    method: Method
    purpose: Purpose
    outcome: Literal["reached", "missed", "completed", "diverged", "failed"]
    error: str | None
    dataset_digest: str
    drops: tuple[str, ...]
    new_drops: tuple[str, ...]
    parent: str | None
    attempt: int
    seed: int
    scale: float
    target: Target | None
    result: Result | None
    evaluation: Evaluation | None
    decision: Decision | None
    savings: Savings | None
    started_at: datetime
    ended_at: datetime


class Promotion(Record):
    """One entry of the champions' history."""

    sequence: int
    run_id: str
    why: Literal["promoted", "promoted by hand", "rolled back"]
    at: datetime


class Champion(Record):
    """The promoted model, `champion.json`: replaced only by compare-and-swap; the last of `history` is in force."""

    history: tuple[Promotion, ...]

    @property
    def run_id(self) -> str:
        """The run whose model is in force."""
        return self.history[-1].run_id
