"""Translate obstore's errors into messages, and repeat requests whose replies broke."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from obstore.exceptions import BaseError, GenericError, InvalidPathError, PermissionDeniedError, UnauthenticatedError

from retrain.errors import StoreError
from retrain.store.base import Missing
from retrain.store.cloud.services import Service, credentials_method
from retrain.store.requests import Reply, retry_if
from retrain.utils.text import check_network, mask_credentials

NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist", re.IGNORECASE)
TOKEN = re.compile(r"token request")
REFUSED = re.compile(rf"status code: 40[13]|{TOKEN.pattern}")
"""Text of errors in which the service, or the issuer of its tokens, refused the credentials."""
UNREACHABLE = re.compile(r"\(Connect\)|connect error|dns error|Connection refused")
NOT_FOUND = re.compile(r"status code: 404")
STATUS = re.compile(r"non-2xx status code: (\d{3})")
GENERIC = re.compile(r"^Generic \w+ error: ")
CODE = re.compile(r"<Code>(\w+)</Code>")
IMPOSSIBLE = re.compile(r"empty path segment|bad segment|illegal character", re.IGNORECASE)

REQUEST = re.compile(r"Error performing \w+ request: ")
ATTEMPT = re.compile(
    r"Error performing (\w+) (\S+) in \S+(?:, after [^-]*)? - (?:Server returned non-2xx status code: )?"
)
"""obstore's text about a request, with its duration and its settings."""


class Location(NamedTuple):
    """The parts of an error message: the store, its service, its endpoint, and the key or prefix."""

    url: str
    service: Service
    endpoint: str | None
    key: str

    def __str__(self) -> str:
        """Return the beginning of every message."""
        where = mask_credentials(self.endpoint or self.service.name)
        return f"{self.url} at {where}" + (f", {self.key}" if self.key else "")


@contextmanager
def translate_errors(place: Location) -> Iterator[None]:
    """Raise errors of obstore and of the local disk as `StoreError` or `Missing`."""
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise _translated(place, error) from error


def unusable_credentials(place: Location, error: Exception) -> StoreError:
    """Return the error for credentials that obstore cannot read. It has sent no request yet."""
    return StoreError(f"{place}: {_first_lines(error)}. {place.service.advice}")


def retry(call: Callable[[], Reply]) -> Reply:
    """Return the result of `call`. Repeat it if its reply broke.

    obstore itself repeats a request that the server refuses temporarily. It does not do so after a broken reply,
    because it cannot know whether the request may be sent twice.
    """
    return retry_if(lambda error: isinstance(error, GenericError) and is_broken_reply(error), call)


def is_broken_reply(error: Exception) -> bool:
    """Return whether the connection or the reply broke. False if the server refused or could not be reached."""
    text = str(error)
    return not (STATUS.search(text) or UNREACHABLE.search(text) or REFUSED.search(text) or IMPOSSIBLE.search(text))


def _translated(place: Location, error: Exception) -> StoreError:
    if NO_BUCKET.search(str(error)):
        kind, command = place.service.container, place.service.list_command
        return StoreError(
            f"{place}: the {kind} does not exist. Create it, or correct the task's `store`. `{command}` lists the "
            f"{kind}s that you have."
        )
    if isinstance(error, FileNotFoundError) and not error.filename:  # an error of the local disk names a file
        return Missing(f"{place}: there is no such object.")
    return StoreError(f"{place}: {_cause(place, error)}")


def _cause(place: Location, error: Exception) -> str:
    service, text, said = place.service, _first_lines(error), str(error)
    network = check_network(f"the address ({service.address})")
    if TOKEN.search(said):
        method = credentials_method(place.url.partition("://")[0])
        return f"no access token was given for the credentials ({method}): {text}. {service.advice}"
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or REFUSED.search(said):
        return f"the credentials are refused, or do not allow the request: {text}. {service.advice} {service.role}"
    if isinstance(error, InvalidPathError) or IMPOSSIBLE.search(said):
        advice = "delete the object, or upload it under another name."
        return f"{text}. An object's name contains an empty part, or a part that is `.` or `..`: {advice}"
    if isinstance(error, GenericError) and UNREACHABLE.search(said):
        return f"the server cannot be reached: {text}. {network}"
    if isinstance(error, GenericError) and is_broken_reply(error):
        return f"the server's reply is broken: {text}. {network}"
    if NOT_FOUND.search(said):
        return f"the reply does not come from {service.name}: {text}. {network}"
    return text


def _first_lines(error: Exception) -> str:
    """Return the error's text without the Rust structures after it. For a refusal in XML, return only its code."""
    text = GENERIC.sub("", " ".join(str(error).partition("Debug source:")[0].split()))
    if code := CODE.search(text):
        text = f"{text.partition(': <')[0]}: {code[1]}"
    text = ATTEMPT.sub(r"\1 \2: ", REQUEST.sub("", text))
    return mask_credentials(text)[:500].rstrip(". ")
