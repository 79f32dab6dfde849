"""Translate obstore's errors into messages, and repeat requests whose replies broke."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from obstore.exceptions import BaseError, GenericError, InvalidPathError, PermissionDeniedError, UnauthenticatedError

from retrain.errors import StoreError
from retrain.store.base import Missing
from retrain.store.cloud.services import Service
from retrain.store.requests import Reply, retry_if
from retrain.utils.text import mask_credentials

NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist", re.IGNORECASE)
REFUSED = re.compile(r"status code: 40[13]|token request")
"""Text of errors where the service, or the issuer of its tokens, refused the credentials."""
UNREACHABLE = re.compile(r"\(Connect\)|connect error|dns error|Connection refused")
STATUS = re.compile(r"non-2xx status code: (\d{3})")
GENERIC = re.compile(r"^Generic \w+ error: ")
CODE = re.compile(r"<Code>(\w+)</Code>")
IMPOSSIBLE = re.compile(r"empty path segment|bad segment|illegal character", re.IGNORECASE)

NETWORK = "Check the endpoint's address (endpoint_url), that the server is up, and the network between."


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
    """Raise errors of obstore and of the local disk as `StoreError`, or `Missing`."""
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise _translated(place, error) from error


def unusable_credentials(place: Location, error: Exception) -> StoreError:
    """Return the error for credentials that obstore cannot read, before it has sent any request."""
    return StoreError(f"{place}: {_first_lines(error)}. {place.service.advice}")


def retry(call: Callable[[], Reply]) -> Reply:
    """Return what `call` returns; repeat it if its reply broke.

    obstore itself retries what a server refuses temporarily. It does not retry after a broken reply, because it cannot
    know whether the request may be sent twice.
    """
    return retry_if(lambda error: isinstance(error, GenericError) and is_broken_reply(error), call)


def is_broken_reply(error: Exception) -> bool:
    """Return whether the connection or the reply broke, rather than that the server refused or was not reached."""
    text = str(error)
    return not (STATUS.search(text) or UNREACHABLE.search(text) or REFUSED.search(text) or IMPOSSIBLE.search(text))


def _translated(place: Location, error: Exception) -> StoreError:
    if NO_BUCKET.search(str(error)):
        return StoreError(f"{place}: the bucket or container does not exist. Create it, or correct the task's `store`.")
    if isinstance(error, FileNotFoundError) and not error.filename:  # one of the local disk has a file's name
        return Missing(f"{place}: there is no such object.")
    return StoreError(f"{place}: {_cause(place.service, error)}")


def _cause(service: Service, error: Exception) -> str:
    text = _first_lines(error)
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or REFUSED.search(str(error)):
        return f"{text}. {service.advice}"
    if isinstance(error, InvalidPathError) or IMPOSSIBLE.search(str(error)):
        return f"{text}. An object's name has an empty or a dotted part: remove it, or upload it under another name."
    if isinstance(error, GenericError) and UNREACHABLE.search(str(error)):
        return f"the server cannot be reached: {text}. {NETWORK}"
    if isinstance(error, GenericError) and is_broken_reply(error):
        return f"the server's reply is broken: {text}. {NETWORK}"
    return text


def _first_lines(error: Exception) -> str:
    """Return what happened without the Rust structures that follow; of a refusal in XML, only its code."""
    text = GENERIC.sub("", " ".join(str(error).partition("Debug source:")[0].split()))
    if code := CODE.search(text):
        text = f"{text.partition(': <')[0]}: {code[1]}"
    return mask_credentials(text)[:500].rstrip(". ")
