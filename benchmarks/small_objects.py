"""Measure reads of many small objects from Ceph's gateway, one or sixteen at a time, with and without a delay.

With Ceph's default, `tcp_nodelay=0`, Nagle's algorithm is active: the end of a reply waits until the client has
acknowledged its beginning. Both gateways run on this machine and share its cores with the reader. Reads from the two
alternate.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack

from exporter import TASK, record_of
from lib.report import parser, report
from lib.s3 import BUCKET, serving_ceph

from retrain.store import open_store
from retrain.store.task_store import TaskStore
from retrain.utils.parallel import map_ahead

FRONTENDS = ("tcp_nodelay=0", "tcp_nodelay=1")


def fill_ledger(endpoint: str, records: int) -> TaskStore:
    """Return a store with this number of typical records in its ledger."""
    store = TaskStore(open_store(f"s3://{BUCKET}", endpoint), TASK.task)
    for _ in map_ahead(lambda number: store.ledger.write(record_of(number)), range(records)):
        pass
    return store


def one_by_one(store: TaskStore) -> None:
    """Read the ledger's objects one after the other."""
    for entry in store.objects.list(store.keys.ledger):
        store.objects.read(entry.key)


def by_sixteen(store: TaskStore) -> None:
    """Read the ledger as the project's commands do: sixteen objects at a time."""
    store.ledger.read()


def time_read(read: Callable[[TaskStore], None], store: TaskStore) -> tuple[float, float]:
    """Return the wall and processor seconds of one reading of the ledger."""
    began, cpu = time.perf_counter(), time.process_time()
    read(store)
    return time.perf_counter() - began, time.process_time() - cpu


def main() -> None:
    """Run the measurements, and report them."""
    options = parser(__doc__)
    options.add_argument("--records", type=int, default=2000)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    taken: dict[str, list[tuple[float, float]]] = {}
    with ExitStack() as servers:
        stores = {
            frontend: fill_ledger(servers.enter_context(serving_ceph(frontend)), chosen.records)
            for frontend in FRONTENDS
        }
        for _ in range(chosen.rounds):
            for frontend, store in stores.items():
                for read in (one_by_one, by_sixteen):
                    taken.setdefault(f"{frontend}, {read.__name__}", []).append(time_read(read, store))
    figures = {
        name: {
            "seconds": round(statistics.median(wall for wall, _ in each), 2),
            "processor seconds": round(statistics.median(cpu for _, cpu in each), 2),
        }
        for name, each in taken.items()
    }
    report({"records": chosen.records, "rounds": chosen.rounds, **figures}, chosen.output)


if __name__ == "__main__":
    main()
