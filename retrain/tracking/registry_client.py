"""Requests to the REST API of a Kubeflow Model Registry.

The official Python client (`model-registry` 0.3) is not used, for four reasons. It cannot complete an interrupted
registration. It waits up to five minutes for each reply. It changes the logging of the whole process. Each of its
releases works only with some servers.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import urllib3

from retrain import __version__
from retrain.errors import UserError
from retrain.utils.text import check_network, is_web_address, mask_credentials, system_cause

PREFIX = "/api/model_registry"
VERSIONS = ("v1", "v1alpha3")
"""Versions of the API. The requests are the same in both. Old servers support only the second version, and future
servers will not support it."""
ADDRESS, TOKEN, TOKEN_FILE = "MODEL_REGISTRY_URL", "MODEL_REGISTRY_TOKEN", "MODEL_REGISTRY_TOKEN_FILE"
"""Environment variables. A pod's token is in a file, because Kubernetes renews it."""
TIMEOUT = urllib3.Timeout(connect=5, read=10)
"""Time limits of one request, in seconds. A failed request is not retried, but the next export sends it again."""
PROBE = urllib3.Timeout(connect=5, read=5)
"""Time limits of a request of `retrain doctor`, in seconds."""
NETWORK = check_network(f"${ADDRESS}")
PAGE = 100
"""Largest number of resources in one reply."""
MAX_MESSAGE = 200
"""Largest number of characters of a reply in an error message."""

Resource = dict[str, Any]


class RegistryClient:
    """Finds, creates and changes resources. Its methods raise `UserError` if the server is unreachable or refuses."""

    def __init__(self, address: str | None = None, timeout: urllib3.Timeout = TIMEOUT) -> None:
        """Use the server at an address, by default at $MODEL_REGISTRY_URL. Raises `UserError` without an address."""
        address = address or os.environ.get(ADDRESS)
        if not address:
            raise UserError("no Model Registry: set $MODEL_REGISTRY_URL, or pass --uri to `retrain track`")
        self.address = mask_credentials(address)
        """The server's address for messages, without a password."""
        if not is_web_address(address):
            raise UserError(f"Model Registry at {self.address}: the address must begin with http:// or https://")
        self._url, self._version = address.rstrip("/"), VERSIONS[0]
        token = _read_token()
        headers = {"accept": "application/json", "user-agent": f"retrain/{__version__}"}
        self._pool = urllib3.PoolManager(
            retries=False, timeout=timeout, headers=headers | ({"authorization": f"Bearer {token}"} if token else {})
        )

    def find(self, kind: str, name: str, parent: str | None = None) -> Resource | None:
        """Return the resource of this name, or None. All but registered models also need their parent's id."""
        query = {"name": name} | ({"parentResourceId": parent} if parent else {})
        status, reply = self._request("GET", f"/{kind}", query=query, accepted=(200, 404))
        return reply if status == 200 else None

    def find_all(self, path: str) -> Iterator[Resource]:
        """Yield all resources of a collection."""
        token = ""
        while True:
            query = {"pageSize": str(PAGE)} | ({"nextPageToken": token} if token else {})
            _, reply = self._request("GET", path, query=query)
            yield from reply["items"]
            token = reply["nextPageToken"]
            if not token:
                return

    def create(self, path: str, resource: Resource) -> Resource | None:
        """Create a resource. Return None if its name is taken, because another process has created it."""
        status, reply = self._request("POST", path, resource, accepted=(201, 409))
        return reply if status == 201 else None

    def change(self, path: str, changes: Resource) -> None:
        """Change a resource. Given properties replace all properties. Without a given state, the state becomes LIVE."""
        self._request("PATCH", path, changes)

    def _request(
        self,
        method: str,
        path: str,
        body: Resource | None = None,
        *,
        query: dict[str, str] | None = None,
        accepted: tuple[int, ...] = (200,),
    ) -> tuple[int, Resource]:
        """Return status and content of a reply. If the server does not know the API's version, try the older one."""
        status, data = self._send(method, path, body, query)
        content = _parse(data)
        if status == 404 and content is None and self._version != VERSIONS[1]:
            self._version = VERSIONS[1]
            return self._request(method, path, body, query=query, accepted=accepted)
        if status not in accepted or content is None:
            said = (content or {}).get("message") or data.decode(errors="replace")
            raise UserError(
                f"Model Registry at {self.address}: answered {status} to {method} {path}: {said[:MAX_MESSAGE]}"
            )
        return status, content

    def _send(self, method: str, path: str, body: Resource | None, query: dict[str, str] | None) -> tuple[int, bytes]:
        """Return a reply. Redirects are not followed, because they could send the token to another server."""
        url = f"{self._url}{PREFIX}/{self._version}{path}"
        content = {"fields": query} if body is None else {"json": body}
        try:
            reply = self._pool.request(method, url, redirect=False, **content)
        except urllib3.exceptions.HTTPError as error:
            raise UserError(
                f"Model Registry at {self.address}: cannot be reached: {system_cause(error)}. {NETWORK}"
            ) from error
        return reply.status, reply.data


def _read_token() -> str | None:
    """Return the token of the environment. Raises `UserError` if its file cannot be read."""
    if token := os.environ.get(TOKEN):
        return token
    file = os.environ.get(TOKEN_FILE)
    try:
        return Path(file).read_text().strip() if file else None
    except OSError as error:
        raise UserError(f"$MODEL_REGISTRY_TOKEN_FILE: {file} cannot be read: {error.strerror}") from error


def _parse(data: bytes) -> Resource | None:
    """Return the object of a JSON text, or None if it is something else, such as a website's error page."""
    try:
        content = json.loads(data)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
