"""Dashboard files match the code, and a real Prometheus answers every query of every panel."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, make_wsgi_app
from support import known_ledger, monitoring
from support.trainings import TASK, plan_of

from retrain.config.task import Task
from retrain.monitoring import live, names
from retrain.monitoring.dashboards.__main__ import FILES
from retrain.monitoring.web import serving
from retrain.records import Point
from retrain.store import LocalStore
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore
from retrain.training.progress import Progress

FOLDER = Path(__file__).parents[2] / "charts" / "retrain" / "dashboards"
NAMES = {name.name.replace(names.CURRENCY, "") for group in names.GROUPS.values() for name in group}
HOUR = 3600 / known_ledger.SECONDS
"""Iterations in an hour on the device."""

Panel = dict[str, Any]


def panels(file: str) -> list[Panel]:
    """Return all panels of a dashboard that show data."""
    return [panel for panel in json.loads((FOLDER / file).read_text())["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("file", FILES)
def test_dashboard_files_are_up_to_date(file: str) -> None:
    assert json.loads((FOLDER / file).read_text()) == FILES[file], "run `make docs`"


@pytest.mark.parametrize("file", FILES)
def test_panels_have_descriptions_units_and_known_metrics(file: str) -> None:
    for panel in panels(file):
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        for target in panel["targets"]:
            assert set(re.findall(r"retrain_\w+", target["expr"])) <= NAMES
            assert 'task=~"$task"}' in target["expr"]


@pytest.mark.parametrize("file", FILES)
def test_dashboards_have_variables_runbook_and_no_overlaps(file: str) -> None:
    dashboard = json.loads((FOLDER / file).read_text())
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "task"]
    assert dashboard["links"][0]["url"] == "docs/operations.md"
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def answers(prometheus: str, file: str) -> dict[str, dict[str, dict[monitoring.Labels, float]]]:
    """Return the result of each query of each panel for all tasks, by the panel's title and the query's legend."""
    return {
        panel["title"]: {
            target["legendFormat"]: monitoring.query(
                prometheus, target["expr"].replace("$task", ".+").replace("$__rate_interval", "6s")
            )
            for target in panel["targets"]
        }
        for panel in panels(file)
    }


def labelled(label: str, values: dict[str, float]) -> dict[monitoring.Labels, Any]:
    """Return the expected result of a query that has a series for each value of a label."""
    return {frozenset({(label, name)}): pytest.approx(value) for name, value in values.items()}


def unlabelled(value: float) -> dict[monitoring.Labels, Any]:
    """Return the expected result of a query that has one series without labels."""
    return {frozenset(): pytest.approx(value)}


def by_task(pets: dict[str, float], label: str) -> dict[monitoring.Labels, Any]:
    """Return the expected result of a query that has a series of the task pets for each value of a label."""
    return {frozenset({("task", "pets"), (label, name)}): pytest.approx(value) for name, value in pets.items()}


NET, GROSS = -510 - 110 + 340 + 240, -100 + 350 + 250
"""Net and gross savings of the task pets in iterations.

Net savings include a calibration (-510). Of the other runs, one missed its target and two reached it. The task cars has
only a scratch run. Its savings are zero.
"""
WHOLE_NET = NET + 2 * known_ledger.WHOLE
BASELINE = 400 + 500 + 500 + 1000
"""Iterations that training from scratch needs: for three runs of pets and one of cars."""
USED = 400 + 500 + 100 + 150 + 250 + 1000
"""Iterations of all runs except the trial: five runs of pets and one of cars."""

SAVINGS: dict[str, dict[str, dict[monitoring.Labels, Any]]] = {
    "Iterations saved": {"net": unlabelled(NET), "gross": unlabelled(GROSS), "whole": unlabelled(WHOLE_NET)},
    "Share saved": {"net": unlabelled(NET / BASELINE), "gross": unlabelled(GROSS / BASELINE)},
    "GPU-hours saved": {
        "net": unlabelled(NET / HOUR),
        "gross": unlabelled(GROSS / HOUR),
        "whole": unlabelled(WHOLE_NET / HOUR),
    },
    "Money saved": {
        "net {{currency}}": labelled("currency", {"eur": NET / HOUR * 1.8}),
        "gross {{currency}}": labelled("currency", {"eur": GROSS / HOUR * 1.8}),
        "whole {{currency}}": labelled("currency", {"eur": WHOLE_NET / HOUR * 1.8}),
    },
    "Energy saved": {"net": unlabelled(NET / HOUR * 0.3), "whole": unlabelled(WHOLE_NET / HOUR * 0.3)},
    "CO2 saved": {"net": unlabelled(NET / HOUR * 0.3 * 250), "whole": unlabelled(WHOLE_NET / HOUR * 0.3 * 250)},
    "Iterations compared with scratch": {
        "always from scratch": unlabelled(BASELINE),
        "used": unlabelled(USED),
        "used, with evaluations": unlabelled(USED + 4 * known_ledger.EVALUATION),
    },
    "Share saved by task": {"{{task}}": labelled("task", {"pets": NET / 1400, "cars": 0})},
    "GPU-hours used": {
        "{{method}}": labelled(
            "method",
            {
                "scratch": 1900 / HOUR + 3 * 20 / 3600,
                "continuous": 500 / HOUR + 3 * 20 / 3600,
                "naive": 300 / HOUR + 20 / 3600,
            },
        )
    },
    "Speed-up by run": {"{{task}} L_{{level}}": by_task({"99": 500 / 225, "100": 2}, "level")},
    "Score against target": {
        "{{task}} {{metric}} {{split}}": {
            frozenset({("task", task), ("metric", "accuracy"), ("split", split)}): value
            for task in ("pets", "cars")
            for split, value in (("val", 0.81), ("test", 0.79))
        },
        "{{task}} target": labelled("task", {"pets": 0.8}),
        "{{task}} champion, test": labelled("task", {"pets": 0.79}),
    },
    "Old against new data": {
        "{{task}} {{part}}": by_task({"old": 0.9, "new": 0.7}, "part")
        | {frozenset({("task", "cars"), ("part", part)}): value for part, value in (("old", 0.9), ("new", 0.7))}
    },
    "Outcomes": {
        "{{outcome}}": labelled(
            "outcome", {"reached": 3, "plateau": 0, "missed": 1, "completed": 3, "diverged": 0, "failed": 0}
        )
    },
    "Gate": {"{{decision}}": labelled("decision", {"promoted": 3, "refused": 1})},
    "Drops": {"{{state}}": labelled("state", {"trained": 2, "waiting": 0, "quarantined": 1, "uploaded": 0})},
    "Baseline's age": {"{{task}}": labelled("task", {"pets": 2})},
    "Champions": {
        "": {
            frozenset(
                {
                    ("task", "pets"),
                    ("method", "continuous"),
                    ("model", known_ledger.pets()[3].result.model_digest[:12]),
                }
            ): 1
        }
    },
}


def ages() -> dict[str, dict[str, dict[monitoring.Labels, Any]]]:
    """Return the ages in seconds. They grow while the test runs, so an error of an hour is allowed."""
    successes = {"pets": known_ledger.pets()[3].ended_at, "cars": known_ledger.cars()[0].ended_at}
    since = {task: time.time() - ended_at.timestamp() for task, ended_at in successes.items()}
    return {
        "Since the last success": {
            "{{task}}": {frozenset({("task", task)}): pytest.approx(age, abs=3600) for task, age in since.items()}
        },
        "Champion's age": {"{{task}}": {frozenset({("task", "pets")}): pytest.approx(0, abs=3600)}},
    }


def test_compute_savings_queries_return_the_known_values(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    known_ledger.write(store, [*known_ledger.pets(), *known_ledger.cars()])
    store.write(TaskKeys("pets").quarantine("d-9"), b"{}")
    TaskStore(store, "pets").champion.swap(TaskStore(store, "pets").champion.read(), "continuous-4", "promoted")
    tasks = [Task(name=name, store=str(store.root)) for name in ("pets", "cars")]
    with monitoring.exporter(tasks) as address, monitoring.prometheus(tmp_path, [address]) as prometheus:
        monitoring.wait_for(lambda: monitoring.query(prometheus, "retrain_ledger_records"), "a scrape")
        assert answers(prometheus, "compute-savings.json") == SAVINGS | ages()
        offered = json.loads(monitoring.get(f"{prometheus}/api/v1/label/task/values?match[]=retrain_runs_total"))
        assert offered["data"] == ["cars", "pets"]


SPEED = 10
"""Iterations per second."""


class ByClock(Progress):
    """Progress of a training that runs at `SPEED`. It computes the iteration from the clock."""

    @property
    def iteration(self) -> int:
        return 30 + int((time.monotonic() - self.since) * SPEED)

    @iteration.setter
    def iteration(self, value: int) -> None:
        self.since = time.monotonic()


@pytest.fixture
def training() -> Iterator[str]:
    """Serve the metrics of a training that continues from iteration 30 of 1000. Yield the host and port."""
    observer, registry = live.LiveMetrics(), CollectorRegistry()
    registry.register(observer)
    progress = ByClock(evaluation_seconds=3.0, saving_seconds=1.0, data_seconds=6.0, seconds=14.0)
    observer.started(plan_of(target=0.8).model_copy(update={"iterations": 1000}), progress)
    progress.points.append(Point(iteration=30, accuracy=0.7, loss=0.9, images=100, train_loss=1.1, learning_rate=0.001))
    with serving("127.0.0.1", 0, make_wsgi_app(registry)) as port:
        yield f"127.0.0.1:{port}"


def test_live_training_queries_return_the_known_values(training: str, tmp_path: Path) -> None:
    labels = frozenset({("task", "pets"), ("method", "scratch")})
    with monitoring.prometheus(tmp_path, [training]) as prometheus:
        enough = "count_over_time(retrain_training_images_total[1m]) >= 5"
        monitoring.wait_for(lambda: monitoring.query(prometheus, enough), "five scrapes")
        results = answers(prometheus, "live-training.json")
    speed = {"{{task}}": {labels: pytest.approx(SPEED * TASK.training.batch_size, rel=0.5)}}
    assert results.pop("Images per second") == speed
    assert results.pop("Images per second over time") == speed
    assert results.pop("Score against target") == {
        "{{task}} {{method}} {{metric}}": {labels | {("metric", "accuracy")}: 0.7},
        "{{task}} target": {labels: 0.8},
    }
    assert results.pop("Loss") == {
        "{{task}} {{split}}": {labels | {("split", "val")}: 0.9, labels | {("split", "train")}: 1.1}
    }
    assert results.pop("Learning rate") == {"{{task}}": {labels: 0.001}}
    shares = results.pop("Share of time not spent on training steps")["{{task}} {{phase}}"]
    by_phase = {dict(labels)["phase"]: share for labels, share in shares.items()}
    assert by_phase == pytest.approx({"evaluation": 3 / 25, "saving": 1 / 25, "data": 6 / 25}, rel=0.5)
    assert by_phase["data"] / by_phase["saving"] == pytest.approx(6)
    done = results.pop("Progress")["{{task}}"][labels] * 1000
    assert 30 < done < 1000
    assert results.pop("Time to target") == {"{{task}}": {labels: pytest.approx((1000 - done) / SPEED, rel=0.5)}}
    assert not results
