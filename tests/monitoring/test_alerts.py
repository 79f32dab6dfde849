"""Alerts pass promtool's unit tests, have a runbook each, and reach their receiver through a real Alertmanager."""

import json
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from support import known_ledger, monitoring
from support.programs import free_port, need

from retrain.config.task import Task
from retrain.monitoring import names
from retrain.monitoring.web import serving
from retrain.records import Approval, RunRecord
from retrain.store import LocalStore
from retrain.store.keys import TaskKeys
from retrain.watcher.health import Health, health_app

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "charts" / "retrain" / "files" / "alerts.yaml"
ALERTS_TEST = Path(__file__).with_name("alerts_test.yaml")
RULES = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
ALL = {rule["alert"] for rule in RULES}


def promtool(*arguments: str) -> str:
    """Run promtool, and return its output. Fail if it reports an error."""
    command = [need("promtool", "prometheus"), *arguments]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    return checked.stdout


def test_promtool_accepts_the_alert_rules() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "rules", str(ALERTS))


def test_each_alert_fires_when_it_should_and_not_before() -> None:
    promtool("test", "rules", str(ALERTS_TEST))
    tested = yaml.safe_load(ALERTS_TEST.read_text())["tests"]
    cases = [case for group in tested for case in group["alert_rule_test"]]
    assert {case["alertname"] for case in cases if "exp_alerts" in case} == ALL
    assert {case["alertname"] for case in cases if "exp_alerts" not in case} == ALL


def test_alerts_query_only_existing_metrics() -> None:
    known = {name.name for group in names.GROUPS.values() for name in group}
    assert {name for rule in RULES for name in re.findall(r"retrain_\w+", rule["expr"])} <= known


def test_each_alert_has_a_runbook() -> None:
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    anchors = {f"docs/operations.md#{heading.lower()}" for heading in headings}
    assert {rule["annotations"]["runbook_url"] for rule in RULES} <= anchors
    assert set(headings) >= ALL


@pytest.fixture
def webhook() -> Iterator[tuple[str, dict[str, dict[str, str]]]]:
    """Yield the address of a local receiver, and the annotations of the alerts that it received, by alert name."""
    received: dict[str, dict[str, str]] = {}

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.update({alert["labels"]["alertname"]: alert["annotations"] for alert in body["alerts"]})
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", received
    server.shutdown()
    thread.join()
    server.server_close()


def failing_records() -> list[RunRecord]:
    """Return a promoted run, runs that missed their target and cost more than scratch, and a refused run.

    The baseline is 11 drops old.
    """
    aim = known_ledger.target(baseline=500, age=11)
    misses = [known_ledger.run(n, 300, outcome="missed", aim=aim, attempt=n - 2) for n in range(2, 6)]
    refused = known_ledger.run(6, 300, outcome="missed", aim=aim, attempt=4, promoted=False)
    return [known_ledger.run(1, 400, 400, "completed", method="scratch", promoted=True), *misses, refused]


def write_failing_task(store: LocalStore) -> None:
    """Write a task that causes all alerts but three: a failed run, a missing exporter and a failing webhook."""
    known_ledger.write(store, failing_records())
    known_ledger.commit(store, "pets", "d-12", datetime.now(UTC) - timedelta(days=30))
    store.write(TaskKeys("pets").quarantine("d-13"), b"{}")
    store.write(TaskKeys("pets").success("d-14"), b"")
    asked = Approval.requested("continuous-9", datetime.now(UTC) - timedelta(days=2), timedelta(days=7))
    store.write(TaskKeys("pets").approval("continuous-9"), asked.to_bytes())


def test_alerts_reach_their_receiver_through_alertmanager(
    tmp_path: Path, webhook: tuple[str, dict[str, dict[str, str]]]
) -> None:
    address, received = webhook
    store = LocalStore(tmp_path / "store")
    write_failing_task(store)
    rules = yaml.safe_load(ALERTS.read_text())
    for rule in rules["groups"][0]["rules"]:
        rule.pop("for", None)  # the test with promtool covers the waiting times
        rule["expr"] = rule["expr"].replace(" offset 25h", "")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    task = Task(name="pets", store=str(store.root), schedule="0 2 * * *")
    with monitoring.alertmanager(tmp_path, address) as receiver:
        alerting = {"alertmanagers": [{"static_configs": [{"targets": [receiver]}]}]}
        port = free_port()
        more = {"rule_files": [str(tmp_path / "rules.yaml")], "alerting": alerting}
        health = Health(["pets"])
        health.set_failing_webhooks("pets", 1)
        with (
            serving("127.0.0.1", 0, health_app(health)) as watcher,
            monitoring.prometheus(tmp_path, [f"127.0.0.1:{one}" for one in (port, watcher)], **more) as prometheus,
        ):
            monitoring.wait_for(lambda: received.get("RetrainExporterDown"), "the alert of the missing exporter")
            with monitoring.exporter([task], port=port):
                monitoring.wait_for(lambda: monitoring.query(prometheus, "retrain_ledger_records"), "a scrape")
                known_ledger.write(
                    store, [known_ledger.run(7, 50, outcome="diverged", aim=known_ledger.target(age=11))]
                )
                monitoring.wait_for(lambda: received.keys() >= ALL, f"all alerts; received: {sorted(received)}")
    assert received["RetrainBaselineOld"]["summary"] == "pets: the baseline is 11 drops old"
    assert received["RetrainTargetMissed"]["runbook_url"] == "docs/operations.md#retraintargetmissed"
