"""What starts a retraining by itself, and which webhooks learn of a task's events."""

from typing import Annotated, Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveFloat

from retrain.config.fields import ConfigModel, Duration, NoCredentials, Share


class Budget(ConfigModel):
    """What a task's runs may take in a period; once that is spent, no further run starts before the next period."""

    device_hours: PositiveFloat | None = None
    """Hours of one device, evaluation included; no limit where absent."""
    cost: PositiveFloat | None = None
    """Money, at costs.price_per_device_hour; no limit where absent."""
    per: Literal["day", "week", "month"] = "month"
    """Calendar period in UTC; weeks begin on Monday."""


class Trigger(ConfigModel):
    """Conditions that must all hold before `retrain run` or `retrain watch` starts a retraining."""

    min_samples: NonNegativeInt = 0
    """New training samples that must wait."""
    min_new_share: Share = 0.0
    """Share of the dataset's training samples that must be new."""
    quiet_period: Duration | None = None
    """How long no drop may have landed (30m, 6h), so that drops that land together become one run."""
    expected_saving: Annotated[float, Field(lt=1)] | None = None
    """Least share of scratch's iterations that the run must be expected to save, by what the last ones saved."""
    max_wait: Duration | None = None
    """Once the oldest new drop has waited this long, the conditions above count no more."""
    drift: Literal["ignore", "advise", "run"] = "ignore"
    """What follows where a new drop's images differ from those that the champion was tested on. advise: it is shown;
    run: it starts a run as max_wait does; ignore: it is not measured."""
    budget: Budget = Budget()
    """What the runs may take in a period."""
    pause: bool = False
    """true: nothing starts."""


class Erase(ConfigModel):
    """What follows for models when samples are erased."""

    policy: Literal["keep", "retrain"] = "keep"
    """retrain: the next run is trained from scratch if the champion was trained on samples that `retrain drop erase`
    erased, or goes on from a run that was; keep: it may go on from the champion."""


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
    """Experiment trackers that learn of ended runs and promotions. They never delay one."""

    mlflow: bool = False
    """Export runs, curves, and promoted models with the alias champion to the MLflow server of $MLFLOW_TRACKING_URI."""


class Webhook(ConfigModel):
    """An HTTP endpoint that receives events as signed CloudEvents."""

    url: Annotated[str, Field(pattern=r"^https?://[^/\s]+(/\S*)?$"), NoCredentials]
    """Its address, without credentials. The host must be among those of $RETRAIN_WEBHOOK_HOSTS."""
    events: tuple[EventKind, ...] = EVENT_KINDS
    """The events that it receives."""
    secret_variable: Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")] = "RETRAIN_WEBHOOK_SECRET"
    """Environment variable with the secret that signs each message."""
