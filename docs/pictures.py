"""Draw the README's pictures from a ledger of real runs on scanned digits: the report, and the tables of commands.

    .venv/bin/python docs/pictures.py

It takes a few minutes and needs Debian's chromium.
"""

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from playwright.sync_api import BrowserContext, Page, sync_playwright
from rich.console import Console
from rich.table import Table

from retrain.cli.demo import TASK, retrain, write_digits
from retrain.cli.formatting import history_table, status_details
from retrain.cli.options import open_task
from retrain.monitoring.report import read_sources, render_page
from retrain.pipeline.status import read_status

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
DROPS = "40+12+12+12+12+12"
"""Share of the digits in each drop, in percent."""
REFRESH = "baseline.refresh.every=3"
SCALE = 1.5
"""Pixels of the picture per pixel of the page. A value above 1 gives sharp text."""
PAPER = """<!doctype html>
<style>
body {{ margin: 0; padding: 22px 28px; background: {background}; color: {foreground}; width: max-content; }}
pre {{ margin: 0; font: 14px/1.5 "DejaVu Sans Mono", monospace; }}
{stylesheet}
</style>
<pre>{code}</pre>
"""


def main() -> None:
    """Write both pictures."""
    chromium = shutil.which("chromium") or sys.exit("pictures need Chromium: apt-get install chromium")
    os.environ.setdefault("RETRAIN_TASKS", str(ROOT / "tasks"))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        os.chdir(folder)
        write_ledger()
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        window = browser.new_context(viewport={"width": 1120, "height": 1516}, device_scale_factor=SCALE)
        save(drawn(window, report()).screenshot(), "report.png")
        save(drawn(window, terminal()).locator("body").screenshot(), "cli.png")


def write_ledger() -> None:
    """Commit drops one by one. After each drop, run the commands that its user would run."""
    write_digits(Path("digits"))
    for part in range(1, DROPS.count("+") + 2):
        retrain("drop", "pack", "digits", "--task", TASK, "--share", DROPS, "--part", str(part))
        retrain("run", "--task", TASK, "--set", REFRESH)


def report() -> str:
    """Return the HTML of the report."""
    _, store = open_task(TASK)
    return render_page(read_sources(store, store.ledger.read()))


def terminal() -> str:
    """Return the output of `status` and `history` as HTML that looks like a terminal."""
    task, store = open_task(TASK)
    console = Console(record=True, width=118, file=io.StringIO(), force_terminal=True, highlight=False)
    shown: Sequence[tuple[str, Table]] = (
        ("status", status_details(read_status(task, store))),
        ("history", history_table(store.ledger.read())),
    )
    for command, table in shown:
        console.print(f"[bold]$ retrain {command} --task {TASK}[/bold]")
        console.print(table)
        console.print()
    return console.export_html(code_format=PAPER)


def drawn(window: BrowserContext, html: str) -> Page:
    """Return a new page that shows this HTML. The report's content security policy would stay active in a used page."""
    page = window.new_page()
    page.set_content(html)
    return page


def save(shot: bytes, name: str) -> None:
    """Write a picture in a palette of 256 colours."""
    Image.open(io.BytesIO(shot)).convert("RGB").quantize(256).save(IMAGES / name, optimize=True)
    print(f"{IMAGES / name}: {(IMAGES / name).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
