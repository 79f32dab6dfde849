"""Run KServe's SDK in a separate environment. `make test` installs this environment."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

from support.monitoring import wait_for
from support.programs import free_port, skip_or_fail
from support.rendered import ROOT

PYTHON = Path(os.environ.get("KSERVE_PYTHON", Path(sys.prefix) / "kserve" / "bin" / "python"))
"""An interpreter that can import kserve and retrain. It is separate because kserve needs older versions of pandas and
psutil than the lock file."""
EXAMPLE = ROOT / "k8s" / "examples" / "kserve-sdk" / "server.py"
CLIENT = ROOT / "tests" / "support" / "kserve_client.py"


class Addresses(NamedTuple):
    """The addresses on which the example listens."""

    url: str
    grpc: str


def environment() -> dict[str, str]:
    """Return the environment variables of both programs: they import this working tree and use one thread."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def skip_without_kserve() -> None:
    """Skip the test if the separate environment is missing. On CI, fail the test."""
    if not PYTHON.exists():
        skip_or_fail("no KServe: `make test` installs it")


@contextmanager
def serving_with_kserve(file: str, log: Path) -> Iterator[Addresses]:
    """Run the example's server for a task and yield its addresses. It must exit with 0 after SIGTERM."""
    port, grpc_port = free_port(), free_port()
    arguments = ["--task", file, "--device", "cpu", "--every", "0.1", "--http_port", str(port)]
    command = [str(PYTHON), str(EXAMPLE), *arguments, "--grpc_port", str(grpc_port)]
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment()) as server:
        try:
            wait_for(lambda: server.poll() is not None or _is_ready(url) or None, "KServe's server", seconds=240)
            assert server.poll() is None, log.read_text()
            yield Addresses(url, f"127.0.0.1:{grpc_port}")
        finally:
            server.terminate()
        assert server.wait(timeout=60) == 0, log.read_text()


def _is_ready(url: str) -> bool:
    try:
        with urlopen(f"{url}/v2/health/ready", timeout=5) as reply:
            return bool(reply.status == 200)
    except (URLError, TimeoutError, ConnectionError):
        return False


def ask_with_kserve(name: str, url: str, grpc: str, images: list[Path]) -> Any:
    """Return the answers that KServe's clients receive."""
    command = [str(PYTHON), str(CLIENT), name, url, grpc, *map(str, images)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])
