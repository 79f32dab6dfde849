"""Run a real Prometheus and a real Alertmanager on loopback, and query them."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeVar
from urllib.error import URLError
from urllib.parse import urlencode

import pytest
import yaml

from retrain.config.task import Task
from retrain.monitoring.server import serve_exporter
from support.programs import free_port, need

T = TypeVar("T")


def get(url: str) -> str:
    """Return the body of a page."""
    with urllib.request.urlopen(url, timeout=240) as reply:
        return str(reply.read().decode())


def wait_for(condition: Callable[[], T | None], what: str, seconds: float = 240) -> T:
    """Wait until the condition is true, and return its result. A server that does not listen yet counts as false."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except URLError:
            pass
        time.sleep(0.05)
    pytest.fail(f"waited {seconds} s for {what}")


@contextmanager
def exporter(tasks: Sequence[Task], every: float = 1, port: int | None = None) -> Iterator[str]:
    """Run the exporter for some tasks, and yield its host and port."""
    port, stop = port or free_port(), Event()
    thread = Thread(target=serve_exporter, args=(tasks, "127.0.0.1", port, every, stop))
    thread.start()
    try:
        wait_for(lambda: get(f"http://127.0.0.1:{port}/healthz"), "the exporter")
        yield f"127.0.0.1:{port}"
    finally:
        stop.set()
        thread.join()


@contextmanager
def _running(command: Sequence[str], log: Path, ready: str) -> Iterator[None]:
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: get(ready), f"{command[0]}, whose output is in {log}")
        yield
    finally:
        process.terminate()
        process.wait(240)


@contextmanager
def prometheus(folder: Path, targets: Sequence[str], **more: Any) -> Iterator[str]:
    """Run Prometheus and yield its address. It scrapes targets every two seconds. `more` extends its configuration."""
    program, port = need("prometheus", "prometheus"), free_port()
    config = {
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"},
        "scrape_configs": [{"job_name": "retrain", "static_configs": [{"targets": list(targets)}]}],
        **more,
    }
    file = folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [
        program,
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        "--rules.alert.resend-delay=1s",  # the first alert is sent before Prometheus has discovered Alertmanager
    ]
    url = f"http://127.0.0.1:{port}"
    with _running([*command, f"--web.listen-address=127.0.0.1:{port}"], folder / "prometheus.log", f"{url}/-/ready"):
        yield url


@contextmanager
def alertmanager(folder: Path, webhook: str) -> Iterator[str]:
    """Run Alertmanager and yield its host and port. It notifies a webhook without delay."""
    program, port = need("prometheus-alertmanager", "prometheus-alertmanager"), free_port()
    receiver = {"name": "test", "webhook_configs": [{"url": webhook, "send_resolved": False}]}
    route = {"receiver": "test", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s"}
    file = folder / "alertmanager.yaml"
    file.write_text(yaml.safe_dump({"route": route, "receivers": [receiver]}))
    command = [program, f"--config.file={file}", f"--storage.path={folder / 'alerts'}", "--cluster.listen-address="]
    address = f"127.0.0.1:{port}"
    with _running([*command, f"--web.listen-address={address}"], folder / "alerts.log", f"http://{address}/-/ready"):
        yield address


Labels = frozenset[tuple[str, str]]


def query(prometheus: str, promql: str) -> dict[Labels, float]:
    """Return the newest values of a query by their labels."""
    answer = json.loads(get(f"{prometheus}/api/v1/query?{urlencode({'query': promql})}"))
    assert answer["status"] == "success", answer
    return {_labels(series["metric"]): float(series["value"][1]) for series in answer["data"]["result"]}


def _labels(metric: Mapping[str, str]) -> Labels:
    return frozenset((name, value) for name, value in metric.items() if name not in ("__name__", "instance", "job"))


def samples(text: str) -> dict[tuple[str, Labels], float]:
    """Return the values of a /metrics page by their labels."""
    from prometheus_client.parser import text_string_to_metric_families

    families = text_string_to_metric_families(text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
