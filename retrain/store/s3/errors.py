"""Translate botocore's errors into messages with the store, the key, the cause and advice."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import NamedTuple

from boto3.exceptions import Boto3Error
from botocore import exceptions as botocore
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from retrain.errors import StoreError
from retrain.store.base import Missing
from retrain.utils.text import check_network, mask_credentials

CREDENTIALS = "Check the credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's role."
NETWORK = check_network("the endpoint's address (endpoint_url)")

REGION = ("the bucket is in another region", "Set AWS_DEFAULT_REGION to the bucket's region.")

REFUSALS = {
    "NoSuchBucket": (
        "the bucket does not exist",
        "Create the bucket, or correct the task's `store`. `aws s3 ls` lists the buckets of your account.",
    ),
    "InvalidAccessKeyId": ("the server does not know the access key", CREDENTIALS),
    "SignatureDoesNotMatch": ("the secret key does not belong to the access key", CREDENTIALS),
    "InvalidToken": ("the session token is wrong", CREDENTIALS),
    "ExpiredToken": ("the credentials have expired", "Renew them, for example with `aws sso login`."),
    "AccessDenied": (
        "the credentials do not allow {operation}",
        "Check that their policy allows it (k8s/examples/aws has a policy for each role), and the bucket's name: the "
        "bucket of another account is denied, too.",
    ),
    "403": ("the credentials do not allow {operation}", CREDENTIALS),
    "AuthorizationHeaderMalformed": REGION,
    "IllegalLocationConstraintException": REGION,
    "PermanentRedirect": REGION,
    "RequestTimeTooSkewed": ("this machine's clock differs from the server's", "Set this machine's clock."),
}
"""Cause and advice by the server's error code. A reply without a body has only its status."""

BAD_CREDENTIALS = (
    botocore.NoCredentialsError,
    botocore.PartialCredentialsError,
    botocore.CredentialRetrievalError,
    botocore.ProfileNotFound,
    botocore.TokenRetrievalError,
    botocore.SSOError,
)
BAD_NETWORK = (botocore.HTTPClientError, botocore.ConnectionError)
BROKEN_REPLY = (HTTPError, ResponseParserError, botocore.FlexibleChecksumError, botocore.ResponseStreamingError)
"""Errors of a reply whose body ended too early, is an incomplete document, or does not match its checksum."""


class Denied(StoreError):
    """The policy of these credentials does not allow the request."""


class Location(NamedTuple):
    """The parts of an error message: the store, its endpoint, and the key or prefix."""

    url: str
    endpoint: str
    key: str

    def __str__(self) -> str:
        """Return the beginning of every message."""
        return f"{self.url} at {mask_credentials(self.endpoint)}" + (f", {self.key}" if self.key else "")


def http_status(error: ClientError) -> int:
    """Return the HTTP status of the server's refusal."""
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


@contextmanager
def translate_errors(place: Location) -> Iterator[None]:
    """Raise errors of S3, botocore and the local disk as `StoreError`, or `Missing`."""
    try:
        yield
    except ClientError as error:
        raise _refusal(place, error) from error
    except Boto3Error as error:  # the transfer manager wraps other errors
        cause = error.__context__
        raise (_refusal(place, cause) if isinstance(cause, ClientError) else _failure(place, error)) from error
    except (BotoCoreError, ResponseParserError, HTTPError, OSError, ValueError) as error:  # wrong endpoint_url
        raise _failure(place, error) from error


def _refusal(place: Location, error: ClientError) -> StoreError:
    code = error.response["Error"]["Code"]
    if code in ("NoSuchKey", "404"):
        return Missing(f"{place}: there is no such object.")
    kind = Denied if code == "AccessDenied" else StoreError
    if code in REFUSALS:
        problem, advice = REFUSALS[code]
        return kind(f"{place}: {problem.format(operation=error.operation_name)} ({code}). {advice}")
    if (status := http_status(error)) >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return kind(f"{place}: {_error_text(error)}. Try again later, or check the endpoint's address (endpoint_url).")
    if not code:
        return kind(f"{place}: {error.operation_name} got status {status} from a server that is not S3. {NETWORK}")
    return kind(f"{place}: {_error_text(error)}.")


def _failure(place: Location, error: Exception) -> StoreError:
    if isinstance(error, BAD_NETWORK):
        return StoreError(f"{place}: the server cannot be reached: {_error_text(error)}. {NETWORK}")
    if isinstance(error, BROKEN_REPLY):
        return StoreError(f"{place}: the server's reply is broken: {_error_text(error)}. {NETWORK}")
    if isinstance(error, BAD_CREDENTIALS):
        return StoreError(f"{place}: {_error_text(error)}. {CREDENTIALS}")
    if isinstance(error, botocore.ParamValidationError):
        return StoreError(f"{place}: the bucket's name is not allowed in S3. Correct the task's `store`.")
    if isinstance(error, botocore.NoRegionError):
        return StoreError(f"{place}: no region is known. Set AWS_DEFAULT_REGION.")
    return StoreError(f"{place}: {_error_text(error)}")


def _error_text(error: Exception) -> str:
    """Return an error's text without passwords. botocore quotes addresses of proxies, even with passwords."""
    return mask_credentials(str(error))
