"""The page of all tasks: its sums match the ledgers, it is accessible, and it lists a task that cannot be read."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page
from support import browsers, known_ledger, monitoring
from support.terminal import call

from retrain.config.task import Task
from retrain.monitoring import pages
from retrain.monitoring.report.figures import money, signed
from retrain.monitoring.report.fleet import months
from retrain.records import Approval
from retrain.store import LocalStore
from retrain.store.task_store import TaskStore

NET = -510 - 110 + 340 + 240
"""Net savings of pets in iterations: a calibration, a missed run, and two runs that reached their target."""
PER_ITERATION = known_ledger.SECONDS / 3600 * 1.8
"""EUR per iteration: its seconds in hours, times 1.8 EUR per device-hour."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    """Return the tasks pets and cars with their ledgers, an empty task, and a task with a damaged ledger."""
    store = LocalStore(tmp_path_factory.mktemp("fleet") / "store")
    known_ledger.write(store, [*known_ledger.pets(), *known_ledger.cars()])
    known_ledger.commit(store, "pets", "d-3", known_ledger.START)
    TaskStore(store, "pets").champion.swap(TaskStore(store, "pets").champion.read(), "continuous-4", "promoted")
    store.write("torn/ledger/one.json", b"{")
    return [Task(name=name, store=str(store.root)) for name in ("cars", "empty", "pets", "torn")]


def row(page: Page, task: str) -> list[str]:
    """Return the cells of a task's row."""
    return page.locator("#tasks tbody tr", has=page.get_by_role("rowheader", name=task)).locator("td").all_inner_texts()


def test_fleet_page_lists_each_task_with_a_link_to_its_page(
    browser: Browser, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "FRESH_SECONDS", 3600.0)  # the browser then gets the page that `get` requests
    with monitoring.exporter(tasks) as address:
        monitoring.get(f"http://{address}/")
        page = browsers.opened(browser, f"http://{address}/")
        assert browsers.card(page, "Iterations saved, net") == NET
        assert browsers.card(page, "Saved compared with full trainings, net") == NET + 2 * known_ledger.WHOLE
        assert browsers.card(page, "EUR saved, net") == pytest.approx(NET * PER_ITERATION)
        state, accuracy, _, waiting, _, saved, whole, amount = row(page, "pets")
        assert (state, accuracy, waiting) == ("refused", "79.00%", "1")
        assert (saved, whole) == (signed(NET), signed(NET + 2 * known_ledger.WHOLE))
        assert amount == f"{money(NET * PER_ITERATION)} EUR"
        assert row(page, "cars")[0] == "promoted"
        assert row(page, "empty")[:2] == ["no run yet", "–"]
        assert row(page, "torn")[0].startswith("cannot be read: ")
        assert page.get_by_role("link", name="pets").get_attribute("href") == "/tasks/pets"
        assert "continuous-4" in monitoring.get(f"http://{address}/tasks/pets")
        page.close()


def test_fleet_and_task_page_show_the_waiting_candidate(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "FRESH_SECONDS", 3600.0)
    store = LocalStore(tmp_path / "store")
    known_ledger.write(store, known_ledger.pets())
    century = timedelta(days=36525)  # the approval must not expire while this test is in use
    for run_id, timeout in (("continuous-9", century), ("continuous-8", timedelta(days=3))):
        TaskStore(store, "pets").approvals.request(Approval.requested(run_id, known_ledger.START, timeout))
    with monitoring.exporter([Task(name="pets", store=str(store.root))]) as address:
        for path in ("/fleet", "/"):
            monitoring.get(f"http://{address}{path}")
        fleet, report = (browsers.opened(browser, f"http://{address}{path}") for path in ("/fleet", "/"))
        assert row(fleet, "pets")[0] == "awaits approval"
        waiting = report.locator("p.card", has=report.get_by_text("continuous-9")).inner_text()
        assert waiting == (
            "continuous-9 passed the gate on 2026-01-05 00:00 and awaits approval until 2126-01-06 00:00: "
            "retrain approve continuous-9 --task pets, or reject."
        )
        expired = report.locator("p.card", has=report.get_by_text("continuous-8")).inner_text()
        assert expired == (
            "continuous-8 passed the gate on 2026-01-05 00:00 but was not approved by 2026-01-08 00:00. "
            "The watcher, or retrain run --task pets, refuses it."
        )
        fleet.close()
        report.close()


def test_months_are_sums_of_the_runs_that_ended_in_them() -> None:
    late = known_ledger.run(40, 100, 500)
    february, january = months([*known_ledger.pets(), late])
    assert (february.name, january.name) == ("2026-02", "2026-01")
    assert (february.runs, january.runs) == (1, len(known_ledger.pets()))
    assert february.device_seconds == 100 * known_ledger.SECONDS + 20
    assert february.cost == {"EUR": pytest.approx((100 * known_ledger.SECONDS + 20) / 3600 * 1.8)}
    assert january.saved == {"EUR": pytest.approx(NET * PER_ITERATION)}
    assert january.saved_whole == {"EUR": pytest.approx((NET + 2 * known_ledger.WHOLE) * PER_ITERATION)}


@pytest.fixture(scope="module")
def file(tasks: list[Task], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the URI of the page that `retrain fleet` writes."""
    folder = tmp_path_factory.mktemp("written")
    for task in tasks:
        (folder / f"{task.name}.yaml").write_text(json.dumps({"name": task.name, "store": task.store}))
    named = [word for task in tasks for word in ("-t", str(folder / f"{task.name}.yaml"))]
    assert call(["fleet", *named, "-o", str(folder / "fleet.html")]) == 0
    return (folder / "fleet.html").as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_fleet_page_is_accessible_and_fits(browser: Browser, file: str, scheme: str, width: int) -> None:
    page = browsers.opened(browser, file, color_scheme=scheme, viewport={"width": width, "height": 800})
    assert Axe().run(page).response["violations"] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()
