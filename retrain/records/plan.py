"""A plan: everything that determines a run."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from retrain.config import Method, Metric, Purpose
from retrain.config.fields import IdentityIfSet, NotIdentity, identity
from retrain.config.recipe import Recipe
from retrain.config.task import Averaging, NoAverage, Stopping, Task
from retrain.errors import RunError
from retrain.records.base import Record, digest, unknown_fields
from retrain.records.drop import Dataset


class Scope(Record):
    """The validation samples and classes on which the baseline of a carried target was measured.

    A target is carried if drops have landed since its baseline was trained.
    """

    drops: tuple[str, ...]
    """Ids of the drops whose validation samples are compared."""
    classes: int
    """Number of classes among which the model chooses. They are the first classes of the dataset."""


class AccuracyEstimate(Record):
    """Estimate of the accuracy that scratch would reach with the current images, made from an earlier scratch run.

    It applies to the samples and classes of the earlier run. While a new run trains, `training.stopping` measures how
    much accuracy the classes that were added later cost.
    """

    accuracy: float
    standard_error: float
    is_rough: Annotated[bool, IdentityIfSet] = False
    """Whether the classes have got more images since that run. The effect of more images differs much from task to
    task."""


class Target(Record):
    """The score that a run must reach on val, and its source.

    `accuracy` is level/100 of the baseline's score. Both are scores by the plan's metric. `measured`: the baseline was
    trained on exactly this dataset. `carried`: `age` drops have landed since, and scores within `scope` are compared. A
    run with a carried target must also have stopped improving, or be above the accuracy that is expected of scratch.
    """

    level: float
    accuracy: float
    baseline_run: str
    baseline_accuracy: float
    baseline_iterations: int
    """s_scratch: the iteration at which the baseline's curve first reached its final score."""
    baseline_reached_at: dict[Literal["99", "100"], int | None]
    """Iterations at which the baseline's curve first reached 99 and 100 percent of its final score."""
    provenance: Literal["measured", "carried"]
    age: int
    scope: Scope | None = None
    """Samples and classes of val that count. None: all of val."""
    standard_error: float = 0.0
    """Standard error of the baseline's score, from its validation samples."""
    expected: Annotated[AccuracyEstimate | None, IdentityIfSet] = None
    """Estimated final accuracy of scratch on this dataset. None if it was measured, or cannot be estimated."""
    expected_from: int = 0
    """Number of iterations before which no earlier run of this task was near its target. Until then, an evaluation may
    end after a subset of val."""


class ScratchEstimate(Record):
    """Cost of training from scratch on this dataset, in iterations."""

    iterations: float
    """s_scratch: iterations until scratch first reaches its final accuracy."""
    schedule: int
    """Iterations of the full training."""
    standard_error: float
    """Standard error of `iterations`. 0 if they were measured."""
    provenance: Literal["measured", "estimated"]
    runs: int
    """Number of the task's scratch runs in the estimate. The estimate also uses a value typical of other tasks."""


class StopRule(Record):
    """Limits at which a run ends, in iterations and accuracies. The task's `Stopping` states them as shares."""

    confirmations: int
    """Number of last evaluations whose mean must be at the target."""
    window: int
    """Iterations over which a run must still improve."""
    gain: float
    """Smallest gain in accuracy within the window that counts as an improvement."""
    errors: float = 0.0
    """Smallest gain that counts as an improvement, in standard errors of the newest accuracy on val. The larger of this
    limit and `gain` applies."""
    excess: float | None = None
    """Accuracy above a carried target at which the required gain doubles. None: the required gain is constant."""
    improve_until: Annotated[int | None, NotIdentity] = None
    """Iterations after which a run at a carried target ends even if it still improves. None: it continues. This field
    is not part of a run's id. Therefore unfinished runs of earlier versions can be continued."""
    expect_from: Annotated[int | None, NotIdentity] = None
    """Iterations from which the accuracy expected of scratch may end a run at a carried target. None:
    `improve_until`."""
    patience: int | None
    """Iterations without a gain after which a run below its target ends. None: it ends only with its schedule."""
    tolerance: Annotated[float, NotIdentity] = 0.0
    """Largest distance below the target at which a run that has stopped improving counts as at its target."""

    @classmethod
    def of(
        cls,
        stopping: Stopping,
        s_scratch: float,
        evaluate_every: int,
        missing_fit: float = 1.0,
        tolerance: float = 0.0,
    ) -> Self:
        """Return a task's rule if scratch takes `s_scratch` iterations to reach its final accuracy on the dataset.

        `missing_fit`, in [0, 1], is how far the parent is from having fitted its data. A run from a fitted parent
        reaches scratch's accuracy early. The expected accuracy may therefore end it from half of `improve_until` on. A
        window has at least two evaluations, because one evaluation does not show whether a run improves.
        """
        window = max(stopping.plateau_window * s_scratch, 2 * evaluate_every)
        return cls(
            confirmations=stopping.confirmations,
            window=round(window),
            gain=stopping.plateau_gain,
            errors=stopping.plateau_errors,
            excess=stopping.plateau_excess,
            improve_until=round(stopping.improve_until * s_scratch),
            expect_from=round(stopping.improve_until * s_scratch * (1 + missing_fit) / 2),
            patience=round(stopping.patience * window),
            tolerance=tolerance,
        )


class Loading(Record):
    """The place of the decoded training samples, and the reason.

    `held`: all samples are on the device if it has room, otherwise in the machine's memory. `device` and `memory`: all
    samples are there, because the task states it. `stream`: a few batches at a time are read from shards when they are
    needed. Streaming also changes the order of the samples.
    """

    kind: Literal["held", "device", "memory", "stream"] = "held"
    reason: str = "planned before data could be streamed"


class Origin(Record):
    """The scratch run with which a model's lineage began: its seed, and its numbers of drops and classes. They
    determine its initial weights."""

    seed: int
    drops: int
    classes: int


class Plan(Record):
    """Everything that determines a run. Equal plans are the same run.

    `purpose`: `retrain` yields a candidate. `calibrate` only measures the baseline. `trial` is only for comparison, and
    the pipeline never promotes it. `attempt` is the number of escalations of this retraining so far. `earlier` has the
    ids of this retraining's earlier runs. All of them missed the target.
    """

    task: Task
    method: Method
    purpose: Purpose
    attempt: Annotated[int, NotIdentity]
    earlier: Annotated[tuple[str, ...], NotIdentity]
    retry: int
    """Number of earlier runs of this plan that ended with an error, or whose model a later champion has replaced. A
    missed target is not an error."""
    parent: str | None
    known: int
    """Number of drops that the parent was trained on. They are the first drops of the dataset."""
    dataset: Dataset
    recipe: Recipe
    """The recipe, with a number as the schedule's scale, never auto."""
    iterations: int
    """Length of the schedule in iterations, or the budget of a constant schedule."""
    evaluate_every: int
    """Iterations between evaluations."""
    metric: Annotated[Metric, IdentityIfSet] = "accuracy"
    """Metric that scores the run's model: the task's `target.metric`."""
    target: Target | None
    """Score that ends the run. None: it ends with its schedule."""
    stop_rule: StopRule | None = None
    """Rule that ends the run. None: it ends at its target or with its schedule."""
    averaging: Averaging = NoAverage()
    """The kind of weight averaging, never auto."""
    origin: Origin
    seed: int
    reason: Annotated[str, NotIdentity]
    start: Annotated[str, NotIdentity] = ""
    """The reason for the choice of the initial weights."""
    warnings: Annotated[tuple[str, ...], NotIdentity] = ()
    """Warnings in sentences: about too few samples for the target or the gate, and about unused settings."""
    scratch: Annotated[ScratchEstimate | None, NotIdentity] = None
    """Scratch's iterations on this dataset. None for a run that measures them."""
    loading: Annotated[Loading, NotIdentity] = Loading()
    shuffle_shards: int | None = None
    """Number of shards whose samples are shuffled together. It determines their order. None: not streamed."""
    replaces_scratch: Annotated[bool, NotIdentity] = True
    """Whether this run can be credited with scratch's iterations. Only one run on a dataset is credited with them."""
    run_id: Annotated[str, NotIdentity] = Field(default_factory=lambda fields: _identify(fields))
    """`<method>-<digest>`. It is stored and not computed again, because a later version of retrain may compute another
    digest of the same plan."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a changed plan. It has another run id if a changed field determines the training."""
        unnamed = {name: value for name, value in self if name != "run_id"}
        return type(self)(**unnamed | dict(update or {}))


def check_known(plan: Plan) -> None:
    """Raise `RunError` if a later version planned the run with settings that this version does not know.

    Unknown fields that do not affect the training are allowed: the known fields then give the run's id.
    """
    unknown = list(unknown_fields(plan))
    if unknown and _identify(dict(plan)) != plan.run_id:
        raise RunError(
            f"{plan.run_id} was planned by a later version of retrain, with settings that this version does not know: "
            f"{', '.join(unknown)}. Upgrade retrain"
        )


def _identify(fields: Mapping[str, Any]) -> str:
    """Return a run's id. It depends only on the fields of its plan that determine the training."""
    unnamed = Plan.model_construct(**{**fields, "run_id": ""})
    return f"{fields['method']}-{digest(identity(unnamed))[:12]}"
