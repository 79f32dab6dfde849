"""Measure the exporter with a large ledger: time of the first scrape, time of later scrapes, and memory.

The benchmark generates the ledger and runs `retrain exporter`. `--store` and `--endpoint-url` put the ledger into an S3
bucket instead of a folder.
"""

import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.error import URLError

from lib.report import parser, report
from lib.spent import peak_mb, processor_seconds

from retrain.records import Cost, Decision, Evaluation, Machine, Result, RunRecord, Savings
from retrain.store import ObjectStore, open_store
from retrain.store.keys import TaskKeys

TASK, PORT = TaskKeys("large"), 19109
START = datetime(2020, 1, 1, tzinfo=UTC)
SCRAPES = 50


def record_of(number: int) -> RunRecord:
    """Return a record of typical size: it has a hundred classes and fifty drops."""
    used = number % 300 + 100
    ended = START + timedelta(hours=number)
    return RunRecord(
        run_id=f"continuous-{number:012d}",
        task=TASK.task,
        method="continuous",
        purpose="retrain",
        outcome="completed",
        error=None,
        dataset_digest="0" * 64,
        drops=tuple(f"d-{drop:012d}" for drop in range(50)),
        new_drops=(),
        parent=None,
        attempt=0,
        seed=0,
        scale=0.5,
        target=None,
        result=_result(used, ended),
        evaluation=Evaluation(
            samples=10_000,
            accuracy=0.7,
            old=0.71,
            new=0.65,
            by_class={f"class-{k}": 0.7 for k in range(100)},
            comparison=None,
        ),
        decision=Decision(promoted=True, reasons=()),
        savings=Savings(
            baseline=500,
            whole=600,
            used=used,
            used_all_in=used + 20,
            gross=500 - used,
            net=480 - used,
            gross_whole=600 - used,
            net_whole=580 - used,
        ),
        started_at=ended,
        ended_at=ended,
    )


def _result(used: int, ended: datetime) -> Result:
    return Result(
        outcome="completed",
        iterations=used,
        final_accuracy=0.7,
        best_accuracy=0.7,
        reached_at={"99": used, "100": used},
        speed_up={"99": None, "100": None},
        model_digest="0" * 64,
        index_digest="0" * 64,
        cost=Cost(
            iterations=used,
            samples=used * 128,
            evaluated_images=10_000,
            flops=1e12,
            flops_all_in=1e12,
            device_seconds=used,
            device_seconds_all_in=used,
        ),
        machine=Machine(retrain="0", torch="0", device="cpu", threads=1),
        started_at=ended,
        ended_at=ended,
    )


def write(store: ObjectStore, records: int) -> None:
    """Write the ledger."""

    def put(number: int) -> None:
        entry = record_of(number)
        store.write(TASK.record(entry.run_id), entry.to_bytes())

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, range(records)))


@contextmanager
def exporter(url: str, endpoint_url: str | None, folder: Path) -> Iterator[int]:
    """Start `retrain exporter` and yield its process's id."""
    file = folder / "large.yaml"
    endpoint = f"endpoint_url: {endpoint_url}\n" if endpoint_url else ""
    file.write_text(f"name: {TASK.task}\nstore: {url}\n{endpoint}")
    command = [sys.executable, "-m", "retrain", "exporter", "--task", str(file), "--port", str(PORT)]
    process = subprocess.Popen([*command, "--every", "1"])
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def scrape() -> float:
    """Return the seconds that a scrape takes."""
    since = time.perf_counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics") as reply:
        reply.read()
    return time.perf_counter() - since


def first_scrape() -> float:
    """Return the seconds until the exporter replies to the first scrape."""
    since = time.perf_counter()
    while True:
        try:
            scrape()
            return time.perf_counter() - since
        except URLError:
            time.sleep(0.01)


def main() -> None:
    """Write a ledger, start the exporter, and time its scrapes."""
    options = parser(__doc__)
    options.add_argument("--records", type=int, default=10_000, help="records in the ledger")
    options.add_argument("--store", help="s3://bucket/prefix (default: a temporary folder)")
    options.add_argument("--endpoint-url", help="address of an S3-compatible server")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = chosen.store or f"{folder}/store"
        write(open_store(url, chosen.endpoint_url), chosen.records)
        with exporter(url, chosen.endpoint_url, Path(folder)) as pid:
            first, cpu = first_scrape(), processor_seconds(pid)
            later = []
            for _ in range(SCRAPES):
                time.sleep(0.1)
                later.append(scrape())
            figures = {
                "records": chosen.records,
                "first_scrape_s": round(first, 2),
                "first_scrape_cpu_s": cpu,
                "later_scrapes_ms": {
                    "median": round(1e3 * statistics.median(later), 1),
                    "max": round(1e3 * max(later), 1),
                },
                "peak_mb": peak_mb(pid),
            }
    report(figures, chosen.output)


if __name__ == "__main__":
    main()
