"""The report: its numbers match the ledger, and it is safe, self-contained and accessible."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, CDPSession, Page
from support import browsers, known_ledger
from support.ledgers import champion_of, ledger_of
from support.pictures import two_colours
from typer.testing import CliRunner

from retrain.cli import app
from retrain.config.task import Model, Target, Task, Training
from retrain.data.packing import pack
from retrain.data.staging import Staging
from retrain.monitoring import metrics
from retrain.monitoring.observers import LogLines
from retrain.monitoring.report import ReportData, read_sources, render_page
from retrain.monitoring.report.figures import money
from retrain.monitoring.report.speed_ups import compare_with_baselines
from retrain.pipeline import stages
from retrain.pipeline.context import Context
from retrain.pipeline.planning import Request
from retrain.records import Curve, Decision
from retrain.records.ledger import total_savings
from retrain.records.plan import Scope
from retrain.store import LocalStore, open_store
from retrain.store.task_store import TaskStore

HOSTILE = """'"><img src=x onerror=alert(1)><script>alert(2)</script>${{1}}"""
PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Return a task whose ledger was written by real runs: a scratch run, a calibration, and a run with a target."""
    folder = tmp_path_factory.mktemp("report")
    training = Training(epochs=6, batch_size=8, evaluate_every=1)
    task = Task(
        name="pets",
        store=str(folder / "store"),
        model=Model(name="logistic"),
        training=training,
        target=Target(level=80),
    )
    store = LocalStore(folder / "store")
    context = Context(TaskStore(store, task.name), torch.device("cpu"), folder / "cache", LogLines())
    for part in (1, 2):
        list(
            pack(
                two_colours(folder / "images"),
                task,
                TaskStore(store, task.name),
                staging=Staging.parse("share", "60+40", 0),
                part=part,
            )
        )
        stages.run_task(context, task, Request(purpose="retrain" if part == 1 else "calibrate"))
    stages.run_task(context, task, Request())
    return task


@pytest.fixture(scope="module")
def sources(real: Task) -> ReportData:
    store = TaskStore(open_store(real.store), real.name)
    return read_sources(store, store.ledger.read())


@pytest.fixture(scope="module")
def html(sources: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(sources), encoding="utf-8")
    return path


def opened(browser: Browser, path: Path, **settings: object) -> Page:
    return browsers.opened(browser, path.as_uri(), **settings)


def written(tmp_path: Path, sources: ReportData) -> Path:
    path = tmp_path / "report.html"
    path.write_text(render_page(sources), encoding="utf-8")
    return path


def test_level_crossings_are_points_of_the_curves(sources: ReportData) -> None:
    shown = compare_with_baselines(sources.records, sources.curves)
    assert [one.record.method for one in shown] == ["continuous"]
    for crossing in shown[0].crossings:
        points = {point.iteration: point.accuracy for point in shown[0].curves[crossing.curve].points}
        assert points[crossing.iteration] == crossing.score
    reached = shown[0].record.result.reached_at
    assert {c.level: c.iteration for c in shown[0].crossings if c.curve == "this run"} == {
        level: iteration for level, iteration in reached.items() if iteration is not None
    }


def test_run_with_a_carried_target_has_no_speed_up(sources: ReportData) -> None:
    """The page shows a dash, as `retrain history` does. `/` would mean that the run never reached its target."""
    *others, last = sources.records
    assert last.target
    assert "L_99 –" not in render_page(sources)
    scope = Scope(drops=last.drops[:1], classes=2)
    carried = last.model_copy(update={"target": last.target.model_copy(update={"scope": scope})})
    shown = render_page(replace(sources, records=[*others, carried]))
    assert shown.count("L_99 –, L_100 –") == 2
    assert "L_99 /" not in shown


def test_carried_target_is_drawn_with_scores_in_its_scope(sources: ReportData) -> None:
    *others, last = sources.records
    assert last.target
    target = last.target.model_copy(update={"scope": Scope(drops=last.drops[:1], classes=2)})
    first, *points = sources.curves[last.run_id].points
    curve = Curve(points=(first, *(point.model_copy(update={"in_scope": point.score / 2}) for point in points)))
    records, curves = [*others, last.model_copy(update={"target": target})], {**sources.curves, last.run_id: curve}
    [shown] = compare_with_baselines(records, curves)
    drawn = [(point.iteration, point.score) for point in shown.curves["this run"].points]
    assert drawn == [(point.iteration, point.score / 2) for point in points]
    assert shown.curves["scratch"] == curves[target.baseline_run]
    page = render_page(replace(sources, records=records, curves=curves))
    assert "samples and 2 classes. On all of val, this run ended at " in page


def test_numbers_on_the_page_match_the_ledger(browser: Browser, html: Path, sources: ReportData) -> None:
    page = opened(browser, html)
    total = total_savings(sources.records)
    assert browsers.card(page, "Iterations saved, net") == total.net
    assert browsers.card(page, "Iterations saved, gross") == total.gross
    assert browsers.card(page, "Training from scratch") == total.baseline
    assert browsers.card(page, "Used, including evaluation") == total.used_all_in
    assert browsers.card(page, "Runs") == len(sources.records) == 3
    newest = sources.records[-1]
    assert browsers.card(page, "Newest accuracy, val") == newest.result.final_accuracy
    champion = next(record for record in sources.records if record.run_id == sources.champion.run_id)
    assert browsers.card(page, "Champion, test") == champion.evaluation.accuracy
    for record in sources.records:
        saved = page.locator(f"[id='{record.run_id}'] data").get_attribute("value")
        assert float(saved) == record.savings.net
    page.close()


def test_opened_run_lists_its_plan_target_costs_and_gate(browser: Browser, html: Path, sources: ReportData) -> None:
    page = opened(browser, html)
    run = page.locator(f"[id='{sources.records[-1].run_id}']")
    assert not run.locator("dl").is_visible()
    run.locator("summary").focus()
    page.keyboard.press("Enter")
    text = run.locator("dl").inner_text()
    plan = sources.plans[sources.records[-1].run_id]
    assert plan.reason in text
    assert f"measured by {plan.target.baseline_run}" in text
    assert run.locator("dt").all_inner_texts() == [
        "Plan", "Why", "Recipe", "Target", "Result", "Costs", "Scratch", "Saved", "Gate", "Comparison",
    ]  # fmt: skip
    page.close()


def test_page_and_metrics_give_the_same_totals(browser: Browser, tmp_path: Path, sources: ReportData) -> None:
    records = known_ledger.pets()
    page = opened(browser, written(tmp_path, ReportData("pets", "store", sources.now, records)))
    served: defaultdict[str, float] = defaultdict(float)
    for line in metrics.render(records).decode().splitlines():
        if not line.startswith("#"):
            name, _, value = line.partition("{")[0], *line.rpartition(" ")[1:]
            served[name] += float(value)
    assert browsers.card(page, "Iterations saved, net") == served["retrain_saved_net_iterations"] == -40
    assert browsers.card(page, "Iterations saved, gross") == served["retrain_saved_gross_iterations"]
    assert browsers.card(page, "Training from scratch") == served["retrain_baseline_iterations_total"]
    assert browsers.card(page, "Used, including evaluation") == served["retrain_used_all_in_iterations_total"]
    assert browsers.card(page, "EUR saved, net") == pytest.approx(served["retrain_saved_net_cost_eur"])
    assert browsers.card(page, "kWh saved, net") == pytest.approx(served["retrain_saved_net_energy_joules"] / 3.6e6)
    assert browsers.card(page, "kg CO₂ saved, net") == pytest.approx(served["retrain_saved_net_co2_grams"] / 1000)
    whole = {
        "EUR": served["retrain_saved_whole_net_cost_eur"],
        "kWh": served["retrain_saved_whole_net_energy_joules"] / 3.6e6,
        "kg CO₂": served["retrain_saved_whole_net_co2_grams"] / 1000,
    }
    for unit, amount in whole.items():
        note = page.locator(".card", has=page.get_by_text(f"{unit} saved, net", exact=True)).locator("small")
        assert f"{money(amount)} compared with full trainings" in note.inner_text()
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_page_has_no_accessibility_violations(
    browser: Browser, html: Path, scheme: str, viewport: dict[str, int]
) -> None:
    page = opened(browser, html, color_scheme=scheme, viewport=viewport)
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    violations = Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in violations] == []
    page.close()


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour #rrggbb (WCAG 2.2)."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_chart_colours_have_enough_contrast(browser: Browser, html: Path, scheme: str) -> None:
    page = opened(browser, html, color_scheme=scheme)
    read = "name => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()"
    surface = luminance(page.evaluate(read, "surface"))
    least = {"muted": 4.5} | dict.fromkeys(("primary", "scratch", "gross", "net", "target", "bad", "easy", "hard"), 3.0)
    for name, needed in least.items():
        dark, light = sorted((surface, luminance(page.evaluate(read, name))))
        assert (light + 0.05) / (dark + 0.05) >= needed, name
    page.close()


def test_page_shows_the_champions_mistakes(browser: Browser, html: Path, sources: ReportData) -> None:
    section = opened(browser, html).locator("#mistakes")
    errors = sources.errors
    assert errors is not None
    assert f"{errors.accuracy:.2%} of {errors.samples} test images are classified correctly" in section.inner_text()
    cells = section.locator("figure .wide [role='graphics-symbol'] title, figure .wide path title")
    assert cells.count() >= len(errors.classes)
    assert section.locator("tbody tr").count() == len(errors.classes)
    assert section.locator(".mistakes img").count() == len(errors.mistakes)
    drops = {drop.id for drop in sources.drops}
    assert {text.partition(" of drop ")[2] for text in section.locator(".mistakes small").all_inner_texts()} <= drops


@pytest.mark.parametrize("medium", ["screen", "print"])
def test_page_fits_a_phone_and_a_printed_sheet(browser: Browser, html: Path, medium: str) -> None:
    page = opened(browser, html, viewport=PHONE)
    page.emulate_media(media=medium)
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.close()


def test_first_tab_key_offers_to_skip_to_the_numbers(browser: Browser, html: Path) -> None:
    page = opened(browser, html)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the numbers"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"
    page.close()


def test_hostile_names_are_rendered_as_text(browser: Browser, tmp_path: Path, sources: ReportData) -> None:
    won, *_, refused = known_ledger.pets()
    won = won.model_copy(update={"run_id": HOSTILE})
    hostile = {
        "run_id": HOSTILE + "2",
        "error": HOSTILE,
        "parent": HOSTILE,
        "new_drops": (HOSTILE,),
        "outcome": "failed",
    }
    refused = refused.model_copy(update=hostile | {"decision": Decision(promoted=False, reasons=(HOSTILE,))})
    drops = [drop.model_copy(update={"id": HOSTILE}) for drop in sources.drops]
    made = ReportData(HOSTILE, HOSTILE, sources.now, [won, refused], drops, champion=champion_of([won]))
    page = opened(browser, written(tmp_path, made))
    assert page.locator("img, script, iframe").count() == 0
    assert page.evaluate("document.querySelectorAll('[onerror], [onclick], [onload]').length") == 0
    assert HOSTILE in page.locator("h1").inner_text()
    page.close()


def test_page_of_2000_runs_is_small_and_loads_fast(browser: Browser, tmp_path: Path, sources: ReportData) -> None:
    records = ledger_of(2000)
    path = written(tmp_path, ReportData("birds", "s3://bucket", sources.now, records, champion=champion_of(records)))
    assert path.stat().st_size < 3_000_000
    page = opened(browser, path)
    assert _seconds_to_load(page) < 1
    assert page.locator("tbody[id]").count() == 2000
    assert browsers.card(page, "Iterations saved, net") == total_savings(records).net
    page.close()


def _seconds_to_load(page: Page) -> float:
    """Return the seconds of processor time in which a page reloads. Other processes do not change this time."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    before = _task_seconds(session)
    page.reload()
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
    return _task_seconds(session) - before


def _task_seconds(session: CDPSession) -> float:
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(float(metric["value"]) for metric in metrics if metric["name"] == "TaskDuration")


def test_link_to_a_run_opens_its_part_of_the_table(browser: Browser, tmp_path: Path, sources: ReportData) -> None:
    records = ledger_of(120)
    page = opened(browser, written(tmp_path, ReportData("birds", "store", sources.now, records)))
    oldest = page.locator(f"[id='{records[0].run_id}'] th")
    assert not oldest.is_visible()
    page.evaluate(f"location.hash = '{records[0].run_id}'")
    oldest.wait_for(state="visible")
    page.close()


def test_page_of_an_empty_ledger_reports_no_run(browser: Browser, tmp_path: Path, sources: ReportData) -> None:
    page = opened(browser, written(tmp_path, ReportData("birds", "store", sources.now, [])))
    assert "No run has ended yet." in page.locator("#savings").inner_text()
    assert Axe().run(page).violations_count == 0
    page.close()


def test_report_command_writes_the_page(real: Task, tmp_path: Path) -> None:
    (tmp_path / "pets.yaml").write_text(f"name: pets\nstore: {real.store}\n")
    ended = CliRunner().invoke(app, ["report", "--task", str(tmp_path / "pets.yaml"), "-o", str(tmp_path / "out.html")])
    assert ended.exit_code == 0, ended.output
    page = (tmp_path / "out.html").read_text()
    assert "<script" not in page
    assert all(record.run_id in page for record in TaskStore(open_store(real.store), "pets").ledger.read())
