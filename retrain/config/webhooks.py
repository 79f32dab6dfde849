"""Where a task's events are sent to."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from retrain.config.fields import ConfigModel, NoCredentials

EventKind = Literal[
    "drop.quarantined",
    "run.ended",
    "candidate.awaits_approval",
    "champion.promoted",
    "champion.rolled_back",
    "budget.spent",
]
EVENT_KINDS: tuple[EventKind, ...] = get_args(EventKind)


class Webhook(ConfigModel):
    """An HTTP endpoint that is told of events, as signed CloudEvents."""

    url: Annotated[str, Field(pattern=r"^https?://[^/\s]+(/\S*)?$"), NoCredentials]
    """Its address, without credentials. The host must be among those of $RETRAIN_WEBHOOK_HOSTS."""
    events: tuple[EventKind, ...] = EVENT_KINDS
    """What it is told of."""
    secret_variable: Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")] = "RETRAIN_WEBHOOK_SECRET"
    """Environment variable with the secret that signs each message."""
