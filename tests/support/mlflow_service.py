"""Run a real MLflow server. `make test` installs it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from support.monitoring import wait_for
from support.programs import free_port, skip_or_fail

PROGRAM = Path(sys.prefix) / "mlflow" / "bin" / "mlflow"
"""MLflow's program. It has a separate environment, because it needs an older graphql-core than the lock file has."""


@contextmanager
def serving_mlflow(folder: Path) -> Iterator[str]:
    """Run a server that stores runs in SQLite and serves artifacts. Yield its address. Without MLflow, skip or fail."""
    if not PROGRAM.exists():
        skip_or_fail("no MLflow server: `make test` installs one")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    storage = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    command = [str(PROGRAM), "server", *storage, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # "true" starts eight processes that outlive the server
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment) as server,
    ):
        try:
            wait_for(lambda: server.poll() is not None or _answers(address), "MLflow's server")
            assert server.poll() is None, (folder / "log").read_text()
            yield address
        finally:
            server.terminate()


def _answers(address: str) -> bool:
    try:
        with urlopen(f"{address}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except (URLError, TimeoutError, ConnectionError):
        return False
