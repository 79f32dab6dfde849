"""Open pages in a real Chromium. The pages may neither run scripts nor load other files."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from support.programs import need

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@contextmanager
def chromium() -> Iterator[Browser]:
    path = need("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def new_page(browser: Browser, **settings: object) -> Page:
    """Return an empty page. Its time-outs are long enough for a busy machine."""
    page = browser.new_page(**settings)
    page.set_default_timeout(240_000)
    return page


def opened(browser: Browser, url: str, **settings: object) -> Page:
    """Open a page.

    The test fails if the page logs a message, raises an error, opens a dialog or requests another file.
    """
    page = new_page(browser, **settings)
    page.on("console", lambda message: pytest.fail(f"console: {message.text}"))
    page.on("pageerror", lambda error: pytest.fail(f"script error: {error}"))
    page.on("dialog", lambda dialog: pytest.fail(f"dialog: {dialog.message}"))
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(url)
    assert requests == [url]
    return page


def card(page: Page, name: str) -> float:
    """Return the number in a card of the headline, from the attribute that programs read."""
    shown = page.locator(".card", has=page.get_by_text(name, exact=True)).locator("data")
    return float(shown.get_attribute("value") or "nan")
