"""The exporter over HTTP reads each record once, tolerates damaged and missing objects, and survives a restart.

The names of all metrics follow the conventions.
"""

import json
import platform
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from urllib.error import HTTPError

import pytest
from support import known_ledger, monitoring
from support.processes import preloaded_retrain
from support.programs import free_port, need

from retrain import __version__
from retrain.config.cron import longest_gap
from retrain.config.task import Task
from retrain.monitoring import names
from retrain.monitoring.exporter import Exporter, LedgerReader, WatchedTask
from retrain.monitoring.names import Name
from retrain.monitoring.report.fleet import read_fleet
from retrain.store import Entry, LocalStore
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore

PETS = TaskKeys("pets")
NAMES = [name for group in names.GROUPS.values() for name in group]


@dataclass
class RecordingStore(LocalStore):
    """A local store that records which objects were read, and which prefixes were listed."""

    root: Path
    reads: list[str] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.root)

    def read(self, key: str) -> tuple[bytes, str]:
        self.reads.append(key)
        return super().read(key)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        self.listed.append(prefix)
        return super().list(prefix)


@pytest.fixture
def store(tmp_path: Path) -> RecordingStore:
    """Return a store with the known ledger of pets."""
    store = RecordingStore(tmp_path / "store")
    known_ledger.write(store, known_ledger.pets())
    store.reads.clear()
    return store


def january(day: int) -> datetime:
    return datetime(2026, 1, day, tzinfo=UTC)


def served(exporter: Exporter) -> dict[tuple[str, monitoring.Labels], float]:
    """Return the values that the exporter serves, by metric and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in exporter.collect()
        for sample in family.samples
    }


def key_of(name: str, **labels: str) -> tuple[str, monitoring.Labels]:
    """Return the key of a value in the result of `served`."""
    return name, frozenset(labels.items())


def test_each_record_is_read_once(store: RecordingStore) -> None:
    reader = LedgerReader(TaskStore(store, "pets"))
    assert {record.run_id for record in reader.new()} == {record.run_id for record in known_ledger.pets()}
    known_ledger.write(store, [known_ledger.run(7, 100, 500)])
    store.reads.clear()
    assert [record.run_id for record in reader.new()] == ["continuous-7"]
    assert store.reads == [PETS.record("continuous-7")]
    assert len(reader) == 7


def test_unreadable_record_is_counted_and_retried(store: RecordingStore) -> None:
    store.write(PETS.record("torn"), b"{")
    exporter = Exporter([WatchedTask(TaskStore(store, "pets"))])
    exporter.refresh()
    values = served(exporter)
    assert values[key_of("retrain_used_iterations_total", task="pets", method="scratch")] == 900
    assert values[key_of("retrain_ledger_read_errors_total", task="pets")] == 1
    assert values[key_of("retrain_ledger_read_timestamp_seconds", task="pets")] == 0
    store.write(PETS.record("torn"), known_ledger.run(7, 100, 500, method="naive").to_bytes())
    exporter.refresh()
    assert served(exporter)[key_of("retrain_used_iterations_total", task="pets", method="naive")] == 100
    assert served(exporter)[key_of("retrain_ledger_read_timestamp_seconds", task="pets")] > 0


def test_first_failure_of_a_method_rises_from_zero(store: RecordingStore) -> None:
    known_ledger.write(store, [known_ledger.run(1, 900, method="scratch", task="boats")])
    exporter = Exporter([WatchedTask(TaskStore(store, name)) for name in ("boats", "new")])
    exporter.refresh()
    failed = {
        task: key_of("retrain_runs_total", task=task, method="continuous", purpose="retrain", outcome="failed")
        for task in ("boats", "new")
    }
    before = served(exporter)
    assert [before[key] for key in failed.values()] == [0, 0]
    ended = known_ledger.run(2, 100, task="boats").model_copy(update={"outcome": "failed"})
    known_ledger.write(store, [ended])
    exporter.refresh()
    assert served(exporter)[failed["boats"]] == 1


def test_unreadable_ledger_has_no_zero_that_later_rises(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.write_text("no folder")
    exporter = Exporter([WatchedTask(TaskStore(LocalStore(root), "pets"))])
    exporter.refresh()
    assert not [name for name, _ in served(exporter) if name == "retrain_runs_total"]


def test_missing_folder_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first write creates the folder, so a new task is served with a missing folder too."""
    store = LocalStore(tmp_path / "store")
    exporter = Exporter([WatchedTask(TaskStore(store, "pets"))])
    exporter.refresh()
    exporter.refresh()
    assert [record.message for record in caplog.records] == [
        f"task pets: the store's folder {tmp_path}/store does not exist: check the task's `store`, unless it is new"
    ]
    [task] = read_fleet([Task(name="pets", store=str(tmp_path / "store"))])
    assert task.state == f"no run yet: the store's folder {tmp_path}/store does not exist"
    known_ledger.write(store, [known_ledger.run(1, 900, method="scratch")])
    exporter.refresh()
    assert served(exporter)[key_of("retrain_ledger_records", task="pets")] == 1
    assert len(caplog.records) == 1


def test_restarted_exporter_serves_equal_metrics(store: RecordingStore) -> None:
    exporter = Exporter([WatchedTask(TaskStore(store, "pets"))])
    exporter.refresh()
    known_ledger.write(store, [known_ledger.run(7, 100, 500)])
    exporter.refresh()
    restarted = Exporter([WatchedTask(TaskStore(store, "pets"))])
    restarted.refresh()
    passing = key_of("retrain_ledger_read_timestamp_seconds", task="pets")
    before, after = (
        {key: value for key, value in served(each).items() if key[0] != names.STORE_BYTES.name}  # measured once an hour
        for each in (exporter, restarted)
    )
    assert before.pop(passing) <= after.pop(passing)
    assert after == pytest.approx(before)


def test_unreadable_task_does_not_affect_other_tasks(store: RecordingStore, tmp_path: Path) -> None:
    known_ledger.write(store, known_ledger.cars())
    store.write("pets/drops/d-1/drop.json", b"not a manifest")
    exporter = Exporter([WatchedTask(TaskStore(store, "pets")), WatchedTask(TaskStore(store, "cars"))])
    exporter.refresh()
    values = served(exporter)
    assert values[key_of("retrain_ledger_read_timestamp_seconds", task="pets")] == 0
    assert values[key_of("retrain_used_iterations_total", task="cars", method="scratch")] == 1000


def test_store_that_does_not_answer_does_not_delay_other_tasks(store: RecordingStore, tmp_path: Path) -> None:
    answers = Event()

    class SilentStore(LocalStore):
        def list(self, prefix: str = "") -> Iterator[Entry]:
            answers.wait()
            return super().list(prefix)

    silent = SilentStore(tmp_path / "silent")
    known_ledger.write(silent, known_ledger.cars())
    exporter = Exporter([WatchedTask(TaskStore(silent, "cars")), WatchedTask(TaskStore(store, "pets"))])
    used = {task: key_of("retrain_used_iterations_total", task=task, method="scratch") for task in ("cars", "pets")}
    read = key_of("retrain_ledger_read_timestamp_seconds", task="cars")
    for _ in range(2):
        exporter.refresh(patience=0.5)
        values = served(exporter)
        assert (values[used["pets"]], values.get(used["cars"]), values[read]) == (900, None, 0)
    answers.set()
    exporter.refresh()
    values = served(exporter)
    assert (values[used["pets"]], values[used["cars"]]) == (900, 1000)
    assert values[read] > 0


def test_defect_in_one_task_does_not_affect_others(
    store: RecordingStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known_ledger.write(store, known_ledger.cars())
    tasks = [WatchedTask(TaskStore(store, name)) for name in ("pets", "cars")]
    monkeypatch.setattr(tasks[0].totals, "add", lambda record: 1 / 0)
    exporter = Exporter(tasks)
    exporter.refresh()
    assert served(exporter)[key_of("retrain_used_iterations_total", task="cars", method="scratch")] == 1000
    assert "task pets: division by zero" in caplog.text
    assert "Traceback" in caplog.text


def test_record_with_a_time_without_zone_is_refused(store: RecordingStore) -> None:
    key = PETS.record("continuous-4")
    record = json.loads(store.read(key)[0]) | {"ended_at": "2026-01-01T00:00:00"}
    store.write(key, json.dumps(record).encode())
    reader = LedgerReader(TaskStore(store, "pets"))
    assert "continuous-4" not in {record.run_id for record in reader.new()}
    assert reader.errors == 1


def test_drops_by_state_and_oldest_waiting_drop_are_served(store: RecordingStore) -> None:
    for day, drop in enumerate(("d-1", "d-2", "d-3", "d-4"), start=10):
        known_ledger.commit(store, "pets", drop, january(day))
    store.write(PETS.quarantine("d-9"), b"{}")
    TaskStore(store, "pets").champion.swap(TaskStore(store, "pets").champion.read(), "continuous-4", "promoted")
    exporter = Exporter([WatchedTask(TaskStore(store, "pets"), "0 2 * * 1")])
    exporter.refresh()
    values = served(exporter)
    expected = {"trained": 2, "waiting": 2, "quarantined": 1, "uploaded": 0}
    assert {state: values[key_of("retrain_drops", task="pets", state=state)] for state in expected} == expected
    waiting_since = january(12).timestamp()
    assert values[key_of("retrain_oldest_waiting_drop_timestamp_seconds", task="pets")] == waiting_since
    assert values[key_of("retrain_schedule_period_seconds", task="pets")] == 7 * 86400
    assert len([key for key in store.reads if key.endswith("/drop.json")]) == 4
    assert PETS.amendments not in store.listed


def test_drop_committed_in_the_future_waits_from_now(store: RecordingStore) -> None:
    known_ledger.commit(store, "pets", "d-20", datetime.now(UTC) + timedelta(days=400))
    exporter = Exporter([WatchedTask(TaskStore(store, "pets"))])
    exporter.refresh()
    since = key_of("retrain_oldest_waiting_drop_timestamp_seconds", task="pets")
    assert served(exporter)[since] <= time.time()


def test_complete_upload_is_counted_until_it_is_committed(store: RecordingStore) -> None:
    exporter = Exporter([WatchedTask(TaskStore(store, "pets"))])
    uploaded = key_of("retrain_drops", task="pets", state="uploaded")
    store.write(PETS.success("d-10"), b"")
    exporter.refresh()
    assert served(exporter)[uploaded] == 1
    known_ledger.commit(store, "pets", "d-10", january(10))
    exporter.refresh()
    assert served(exporter)[uploaded] == 0


def test_champion_age_and_accuracy_are_served(store: RecordingStore) -> None:
    exporter = Exporter([WatchedTask(TaskStore(store, "pets"))])
    for run_id, why in (("scratch-1", "promoted"), ("continuous-4", "promoted"), ("scratch-1", "rolled back")):
        champion = TaskStore(store, "pets").champion.swap(TaskStore(store, "pets").champion.read(), run_id, why)
        exporter.refresh()
    values = served(exporter)
    digest = known_ledger.pets()[0].result.model_digest[:12]
    labels = {key for key in values if key[0] == "retrain_champion_info"}
    assert labels == {key_of("retrain_champion_info", task="pets", method="scratch", model=digest)}
    assert (
        values[key_of("retrain_champion_since_timestamp_seconds", task="pets")] == champion.history[-1].at.timestamp()
    )
    assert values[key_of("retrain_champion_accuracy_ratio", task="pets")] == 0.79


def test_no_label_contains_a_run_id(store: RecordingStore) -> None:
    TaskStore(store, "pets").champion.swap(TaskStore(store, "pets").champion.read(), "continuous-4", "promoted")
    exporter = Exporter([WatchedTask(TaskStore(store, "pets"))])
    exporter.refresh()
    run_ids = {record.run_id for record in known_ledger.pets()}
    assert not {value for _, labels in served(exporter) for _, value in labels} & run_ids


def test_exporter_serves_exactly_the_metrics_of_its_groups(store: RecordingStore) -> None:
    known_ledger.commit(store, "pets", "d-4", january(10))
    TaskStore(store, "pets").champion.swap(TaskStore(store, "pets").champion.read(), "continuous-4", "promoted")
    exporter = Exporter([WatchedTask(TaskStore(store, "pets"), "0 2 * * 1")])
    exporter.refresh()
    found = {
        re.sub(r"_duration_seconds_(bucket|count|sum)$", "_duration_seconds", name) for name, _ in served(exporter)
    }
    groups = [name for title, group in names.GROUPS.items() if title in EXPORTED for name in group]
    groups.remove(names.AWAITING_APPROVAL)  # no candidate waits here
    assert found == {name.name.replace(names.CURRENCY, "eur") for name in groups}


EXPORTED = (
    "Work and savings, from the ledger",
    "The newest run, from the ledger",
    "The current state of a task",
    "The exporter",
)


@pytest.mark.parametrize(
    ("cron", "days"), [("0 2 * * *", 1), ("0 2 * * 1-5", 3), ("0 0 1 * *", 31), ("0 */6 * * *", 0.25)]
)
def test_period_of_a_schedule_is_its_longest_gap(cron: str, days: float) -> None:
    assert longest_gap(cron).total_seconds() == days * 86400


def test_promtool_accepts_the_exporters_metrics(store: RecordingStore, tmp_path: Path) -> None:
    with monitoring.exporter([Task(name="pets", store=str(store.root))]) as address:
        page = monitoring.get(f"http://{address}/metrics")
    command = [need("promtool", "prometheus"), "check", "metrics"]
    checked = subprocess.run(command, input=page, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_exporter_serves_build_and_process_metrics(store: RecordingStore) -> None:
    with monitoring.exporter([Task(name="pets", store=str(store.root))]) as address:
        values = monitoring.samples(monitoring.get(f"http://{address}/metrics"))
    assert values[key_of("retrain_build_info", version=__version__, python=platform.python_version())] == 1
    assert values[key_of("process_start_time_seconds")] <= time.time()
    assert values[key_of("process_resident_memory_bytes")] > 1e6


def test_exporter_serves_new_records_and_survives_a_store_error(store: RecordingStore) -> None:
    key = key_of("retrain_used_iterations_total", task="pets", method="scratch")
    errors = key_of("retrain_ledger_read_errors_total", task="pets")
    with monitoring.exporter([Task(name="pets", store=str(store.root))], every=0.05) as address:

        def values() -> dict[tuple[str, monitoring.Labels], float]:
            return monitoring.samples(monitoring.get(f"http://{address}/metrics"))

        known_ledger.write(store, [known_ledger.run(7, 100, method="scratch")])
        monitoring.wait_for(lambda: values()[key] == 1000, "the new record")
        shutil.rmtree(store.root)
        store.root.write_text("a file where the store was")
        monitoring.wait_for(lambda: values()[errors] >= 1, "the error")
        assert values()[key] == 1000


def test_exporter_serves_task_pages_and_404_for_others(store: RecordingStore) -> None:
    known_ledger.write(store, known_ledger.cars())
    tasks = [Task(name=name, store=str(store.root)) for name in ("pets", "cars")]
    with monitoring.exporter(tasks) as address:
        assert 'href="/tasks/pets"' in monitoring.get(f"http://{address}/")
        assert "continuous-4" in monitoring.get(f"http://{address}/tasks/pets")
        with pytest.raises(HTTPError, match="404"):
            monitoring.get(f"http://{address}/tasks/dogs")


def test_exporter_exits_cleanly_on_sigterm(store: RecordingStore, tmp_path: Path) -> None:
    file, port = tmp_path / "pets.yaml", free_port()
    file.write_text(f"name: pets\nstore: {store.root}\n")
    process = subprocess.Popen(
        [preloaded_retrain(), "exporter", "--task", str(file), "--port", str(port)],
        stderr=subprocess.DEVNULL,
    )
    monitoring.wait_for(lambda: monitoring.get(f"http://127.0.0.1:{port}/healthz"), "the exporter")
    process.send_signal(signal.SIGTERM)
    assert process.wait(240) == 0


def test_exporter_on_a_used_port_gives_one_message(store: RecordingStore, tmp_path: Path) -> None:
    file = tmp_path / "pets.yaml"
    file.write_text(f"name: pets\nstore: {store.root}\n")
    with monitoring.exporter([Task(name="pets", store=str(store.root))]) as address:
        command = [preloaded_retrain(), "exporter", "--task", str(file), "--port", address.split(":")[1]]
        ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert f"retrain: cannot listen on {address}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_metric_names_are_unique() -> None:
    assert len({name.name for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.name)
def test_metric_names_follow_the_conventions(name: Name) -> None:
    assert name.name.startswith("retrain_")
    assert name.name.endswith("_total") == (name.kind == "counter")
    assert not {"run", "run_id", "job", "instance"} & set(name.labels)
    assert name.help.endswith(".")
