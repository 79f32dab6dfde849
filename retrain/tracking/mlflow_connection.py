"""Connections to an MLflow server. This file imports no torch: `retrain run --dry-run` must not need it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from retrain.errors import UserError
from retrain.utils.extras import require_extra
from retrain.utils.text import check_network, is_web_address, mask_credentials, system_cause

if TYPE_CHECKING:
    from mlflow import MlflowClient

SILENCE = 5
"""Seconds to wait for a server's first answer."""
NETWORK = check_network("$MLFLOW_TRACKING_URI")
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds; MLflow's default is 120
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's default is 7, with growing pauses
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # commands print JSON to stdout
}
"""Settings of MLflow that apply unless the environment has other values."""


def probe_mlflow(task: str) -> str:
    """Ask the MLflow server of $MLFLOW_TRACKING_URI for a task's experiment, and return a sentence about the
    answer.

    Raises `UserError` as `connect` does, or if the address is not a web address. A connection to the address of a
    folder could create files.
    """
    address = _find_address(None)
    if not is_web_address(address):
        raise UserError(f"MLflow at {address}: not tried, because the address does not begin with http:// or https://")
    with connect() as client:
        known = client.get_experiment_by_name(task) is not None
    state = f"it has the experiment {task}" if known else f"the first export creates the experiment {task}"
    return f"{mask_credentials(address)} answers; {state}"


@contextmanager
def connect(uri: str | None = None) -> "Iterator[MlflowClient]":
    """Yield a client of an MLflow server that has answered. The default is the server at $MLFLOW_TRACKING_URI.

    Raises `UserError` if MLflow's client is not installed, there is no address, or the server is unreachable or
    refuses a request.
    """
    address = _find_address(uri)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    _check_answers(address)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        yield MlflowClient(address, address)
    except MlflowException as error:
        raise UserError(mask_credentials(f"MLflow at {address}: {str(error).splitlines()[0]}")) from error


def _find_address(uri: str | None) -> str:
    require_extra("mlflow", "Tracking in MLflow")
    address = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not address:
        raise UserError("no MLflow server: set $MLFLOW_TRACKING_URI, or pass --uri to `retrain track`")
    return address


def _check_answers(address: str) -> None:
    """Raise `UserError` if a server is silent or unreachable. MLflow's client would try for up to a minute.

    Any answer counts, even a refusal, because MLflow's client reports a refusal immediately.
    """
    import requests  # MLflow uses it, so the same proxies apply

    if not is_web_address(address):
        return
    where = f"MLflow at {mask_credentials(address)}"
    try:
        requests.get(address, timeout=SILENCE, stream=True).close()
    except requests.Timeout as error:
        raise UserError(f"{where}: no answer within {SILENCE} s. {NETWORK}") from error
    except requests.exceptions.SSLError:  # MLflow's settings may allow the certificate
        return
    except requests.ConnectionError as error:
        raise UserError(f"{where}: cannot be reached: {system_cause(error)}. {NETWORK}") from error
    except requests.RequestException:
        return
