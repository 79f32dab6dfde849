"""Types of a task's settings (shares, bytes, durations, addresses), and markers of the fields that affect run ids."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from retrain.utils.clock import DURATION_PATTERN, DURATION_WORDS
from retrain.utils.text import has_credentials

CREDENTIALS_MESSAGE = "must not contain a user, password or query: credentials come from the environment"
"""Message for an address with credentials. The address itself is never shown."""


def _refuse_credentials(value: object) -> object:
    if isinstance(value, str) and has_credentials(value):
        raise PydanticCustomError("secret", CREDENTIALS_MESSAGE)
    return value


NoCredentials = BeforeValidator(_refuse_credentials)
"""Validator that refuses addresses with credentials."""

Bytes = Annotated[str, Field(pattern=r"^[1-9][0-9]*(k|Ki|[MGTPE]i?)?$")]
"""A quantity of bytes in the notation of Kubernetes, such as 512Mi or 16Gi. 1000 bytes are 1k, because Kubernetes
refuses 1K."""

UNITS = "kMGTPE"
"""First letters of the units of bytes, by ascending power."""


def parse_bytes(quantity: Bytes) -> int:
    """Return a quantity in bytes. Ki, Mi, ... are powers of 1024, and k, M, ... are powers of 1000."""
    number = quantity.rstrip(f"{UNITS}Ki")
    unit = quantity.removeprefix(number).replace("K", "k")
    base, power = (1024 if unit.endswith("i") else 1000), (UNITS.index(unit[0]) + 1 if unit else 0)
    return int(number) * int(base**power)


Duration = Annotated[str, Field(pattern=DURATION_PATTERN)]
"""A time such as 30m, 6h, 2d or 1w: minutes, hours, days or weeks."""

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
"""Pattern of a task's name."""

SHA256_PATTERN = r"^[0-9a-f]{64}$"
"""Pattern of a SHA-256 digest."""

PATTERN_WORDS = {
    DURATION_PATTERN: DURATION_WORDS,
    NAME_PATTERN: "1 to 63 lower-case letters, digits and hyphens, with a letter or a digit at both ends",
    SHA256_PATTERN: "a SHA-256 digest: 64 digits of 0-9 and a-f",
}
"""Descriptions of patterns, for messages. Other fields with a pattern give examples in their own descriptions."""

Share = Annotated[float, Field(ge=0, le=1)]

Epochs = Annotated[float, Field(gt=0, le=1e6)]
"""A number of epochs. The limit finds typing errors: no training is as long."""

Iterations = Annotated[int, Field(gt=0, le=10**9)]
"""A number of iterations. At 1,000 iterations a second, the limit takes twelve days."""

Multiple = Annotated[float, Field(gt=0, le=1000)]
"""The length of a schedule, as a multiple of scratch's schedule."""


class ConfigModel(BaseModel):
    """Base class of a task's settings. They are frozen, and refuse unknown fields and numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class NotIdentity:
    """Marker in the `Annotated` type of a field on which a run's id does not depend.

    The field does not affect training, or another field of the plan contains its effect.
    """


class IdentityIfSet:
    """Marker in the `Annotated` type of a field that is part of a run's id only if it differs from its default.

    Such a field can be added later: the ids of plans without it do not change.
    """


def identity(model: BaseModel) -> dict[str, Any]:
    """Return the fields of a model that determine a run's id, as JSON. Nested models are reduced in the same way."""
    dumped = model.model_dump(mode="json")
    return {
        name: _identity_of(getattr(model, name), dumped[name])
        for name, field in type(model).model_fields.items()
        if _is_identity(model, name, field)
    }


def _identity_of(value: object, dumped: object) -> object:
    """Return the part of a field's value that determines the id: the identity of a model, or of models in a tuple."""
    if isinstance(value, BaseModel):
        return identity(value)
    if isinstance(value, tuple) and all(isinstance(item, BaseModel) for item in value):
        return [identity(item) for item in value]
    return dumped


def _is_identity(model: BaseModel, name: str, field: FieldInfo) -> bool:
    """Return whether a field of a model is part of a run's id."""
    if IdentityIfSet in field.metadata:
        return _differs(getattr(model, name), field.get_default(call_default_factory=True))
    return NotIdentity not in field.metadata


def _differs(value: object, default: object) -> bool:
    """Return whether a setting differs from its default. Fields of later versions of retrain are ignored."""
    if isinstance(value, BaseModel) and type(value) is type(default):
        return any(_differs(getattr(value, name), getattr(default, name)) for name in type(value).model_fields)
    return value != default
