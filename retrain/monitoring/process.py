"""What every serving process tells of itself: its version, processor time, memory and files, and its requests to S3."""

import platform
import sys
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from retrain import __version__
from retrain.monitoring import names
from retrain.monitoring.metrics import family, histogram


class ProcessMetrics(Collector):
    """The build, and the durations of requests to the store."""

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; a process that has not opened S3 has no requests."""
        yield family(names.BUILD_INFO, [((__version__, platform.python_version()), 1)])
        if times := sys.modules.get("retrain.store.s3.request_times"):  # importing it would import boto3
            yield histogram(names.STORE_REQUESTS, times.REQUESTS)


def make_registry(*collectors: Collector) -> CollectorRegistry:
    """Return a registry of these collectors, of this process's own metrics, and of Prometheus' `process_*`."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    for collector in (ProcessMetrics(), *collectors):
        registry.register(collector)
    return registry
