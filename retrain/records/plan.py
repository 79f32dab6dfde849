"""A plan: everything that decides a run."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from retrain.config import Method, Purpose
from retrain.config.recipe import Recipe
from retrain.config.task import Task
from retrain.records.base import Record, digest
from retrain.records.drop import Dataset

EXCLUDED_FROM_ID = {"task", "attempt", "earlier", "reason", "replaces_scratch", "run_id", "loading"}
"""What does not decide the training; what in the task does is added apart."""


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
    expected_from: int = 0
    """Iterations before which no run of this task has come near its target: until then, a look at val may be brief."""


class Loading(Record):
    """Where the decoded training samples are, and why there.

    `held`: all of them, on the device if it has room, and else in the machine's memory. `stream`: a few batches of
    them; they are read from shards as they are needed, which decides their order too.
    """

    kind: Literal["held", "device", "memory", "stream"] = "held"
    reason: str = "planned before data could be streamed"


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

    loading: Loading = Loading()
    replaces_scratch: bool = True
    """Whether it is the first retraining of this dataset: scratch would have been trained on it once, and no more."""
    run_id: str = ""
    """`<method>-<digest>`, given when the plan is made and kept for good: a later version's own digest may differ."""

    def model_post_init(self, context: Any) -> None:
        """Give a new plan its id."""
        if not self.run_id:
            self._identify()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a changed plan, which is another run."""
        copy = super().model_copy(update=update, deep=deep)
        copy._identify()
        return copy

    def _identify(self) -> None:
        """Name the run after what decides the training: not how the plan came about, or how the model is judged."""
        content = self.model_dump(mode="json", exclude=EXCLUDED_FROM_ID)
        content["task"] = self.task.model_dump(mode="json", include={"name", "data", "model", "training"})
        data, training = content["task"]["data"], content["task"]["training"]
        del training["save_seconds"], training["compile"], data["loader"]
        stream = data.pop("stream")
        if self.loading.kind == "stream":  # which shards are mixed decides the order of the samples
            content["shuffle_shards"] = stream["shuffle_shards"]
        self.__dict__["run_id"] = f"{self.method}-{digest(content)[:12]}"  # what is frozen has no setter
