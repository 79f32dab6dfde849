"""A plan: everything that decides a run."""

from typing import Literal

from retrain.config import Task
from retrain.recipe.settings import Recipe
from retrain.records.base import Record, digest
from retrain.records.data import Dataset
from retrain.words import Method, Purpose


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
