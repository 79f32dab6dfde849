"""Settings of automatic retraining: its conditions, webhooks and trackers."""

from typing import Annotated, Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveFloat

from retrain.config.fields import ConfigModel, Duration, NoCredentials, Share


class Budget(ConfigModel):
    """Limits of a task's costs in a period. When a limit is reached, no run starts before the next period."""

    device_hours: PositiveFloat | None = None
    """Device hours of training and evaluation (default: no limit)."""
    cost: PositiveFloat | None = None
    """Cost in costs.currency, computed with costs.price_per_device_hour (default: no limit)."""
    per: Literal["day", "week", "month"] = "month"
    """Calendar period in UTC. Weeks begin on Monday."""


class Trigger(ConfigModel):
    """Conditions that must all hold before `retrain run` or `retrain watch` starts a retraining."""

    min_samples: NonNegativeInt = 0
    """Smallest number of new training samples."""
    min_new_share: Share = 0.0
    """Smallest share of the dataset's training samples that are new."""
    quiet_period: Duration | None = None
    """Time that must pass after the last drop landed (30m, 6h, 2d, 1w). Drops that land within this time of each other
    are used in one run."""
    expected_saving: Annotated[float, Field(lt=1)] | None = None
    """Smallest share of scratch's iterations that the run is expected to save. The expectation is the mean saving of
    the last runs."""
    max_wait: Duration | None = None
    """Time after which the conditions above no longer apply, counted from the oldest new drop or correction (30m, 12h,
    7d, 2w)."""
    drift: Literal["ignore", "advise", "run"] = "ignore"
    """Action if a new drop's images differ from the champion's held-out images. advise reports the difference. With
    run, the conditions above no longer apply, as after max_wait. ignore does not measure the difference."""
    budget: Budget = Budget()
    """Limits of the runs' costs in a period."""
    pause: bool = False
    """true: no run starts."""


class Erase(ConfigModel):
    """The next run's treatment of a champion that was trained on erased samples."""

    policy: Literal["keep", "retrain"] = "keep"
    """retrain: the next run is trained from scratch if the champion, or a run it continues from, was trained on samples
    that `retrain drop erase` erased. This run waits only for trigger.budget and trigger.pause. keep: the next run may
    continue from the champion."""


EventKind = Literal[
    "drop.quarantined",
    "run.ended",
    "candidate.awaits_approval",
    "champion.promoted",
    "champion.rolled_back",
    "budget.spent",
]
EVENT_KINDS: tuple[EventKind, ...] = get_args(EventKind)


class Tracking(ConfigModel):
    """Experiment trackers that receive ended runs and promotions. They never delay a run."""

    mlflow: bool = False
    """Export runs, curves, and promoted models with the alias champion to the MLflow server of $MLFLOW_TRACKING_URI."""
    model_registry: bool = False
    """Register promoted models, and mark the champion, in the Kubeflow Model Registry of $MODEL_REGISTRY_URL."""


class Webhook(ConfigModel):
    """An HTTP endpoint that receives events as signed CloudEvents."""

    url: Annotated[str, Field(pattern=r"^https?://[^/\s]+(/\S*)?$"), NoCredentials]
    """Address of the receiver, such as https://hooks.example.com/retrain, without credentials. $RETRAIN_WEBHOOK_HOSTS
    must list its host."""
    events: tuple[EventKind, ...] = EVENT_KINDS
    """Kinds of events that the endpoint receives."""
    secret_variable: Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")] = "RETRAIN_WEBHOOK_SECRET"
    """Environment variable with the secret that signs each message."""
