"""Addresses without secrets: a task's are copied into plans, pipelines and logs, where many people read them."""

import re

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

SECRET = "must hold no user, password or query: credentials come from the environment"
"""What is said of such an address. The address itself is never shown."""

_USER = re.compile(r"(?<=//)[^/\s]*@")
_QUERY = re.compile(r"(\w+://[^\s\"'?#]*)[?#][^\s\"']*")


def holds_secret(address: str) -> bool:
    """Whether an address has a user, a password or a query; a path of this machine has none."""
    return "://" in address and masked(address) != address


def masked(text: str) -> str:
    """Return a message without the users and queries of the addresses in it."""
    return _QUERY.sub(r"\1?***", _USER.sub("***@", text))


def _refuse(value: object) -> object:
    if isinstance(value, str) and holds_secret(value):
        raise PydanticCustomError("secret", SECRET)
    return value


NoSecret = BeforeValidator(_refuse)
"""Makes a field refuse them."""
