"""Names that contain scripts are shown as plain text in a browser."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from support import browsers, monitoring
from support.workspaces import Workspace, make_task

from retrain.config.task import Gate, Task
from retrain.data.packing import pack
from retrain.monitoring.web import Environ, StartResponse, reply, serving
from retrain.pipeline import stages
from retrain.pipeline.planning import Request
from retrain.records import Plan
from retrain.store import LocalStore

HOSTILE = """'"><svg onload=alert(1)><script>alert(2)<&sol;script><img src=x onerror=alert(3)>{{7*7}}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.chromium() as chromium:
        yield chromium


@pytest.fixture
def hostile(tmp_path: Path) -> Task:
    """Return a task with a class that has a hostile name. The model never predicts it, so the gate names the class."""
    task = make_task(gate=Gate(min_class_accuracy=1))
    workspace = Workspace(LocalStore(tmp_path / "store"), tmp_path)
    workspace.land(0, 1, mislabelled=True)
    folder = workspace.draw(0, 1, mislabelled=True, seed=1)
    (folder / "class-0").rename(folder / HOSTILE)
    (drop, *_), *_ = pack(folder, task, workspace.store, drop_id="hostile")
    assert HOSTILE in drop.classes
    record = stages.run_task(workspace.context, task, Request())
    failed = stages.plan(workspace.context, task, Request(purpose="trial"))
    assert isinstance(failed, Plan)
    stages.record_failure(workspace.context, failed, HOSTILE)
    assert HOSTILE in str(record.decision)
    return task.model_copy(update={"store": str(workspace.store.objects.root)})


def test_hostile_names_in_drops_gates_and_errors_are_only_text(browser: Browser, hostile: Task) -> None:
    with monitoring.exporter([hostile]) as address:
        page = browsers.opened(browser, f"http://{address}/")
        page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
        assert page.inner_text("body").count(HOSTILE) >= 2
        assert page.locator("script, img, iframe, [onload], [onerror]").count() == 0
        page.close()


def test_browser_runs_no_script_planted_in_a_page(browser: Browser) -> None:
    """The content security policy is the second defence. Check it with a page that escapes nothing."""
    script = (
        b"<script>document.documentElement.lang='x'</script><svg onload=\"document.documentElement.lang='x'\"></svg>"
    )
    frame = b"<iframe src='data:text/html,x'></iframe><form action='http://127.0.0.1:1/'><input name=a></form>"

    def leaky(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return reply(start_response, "200 OK", "text/html", script + frame)

    with serving("127.0.0.1", 0, leaky) as port:
        page, refused = browsers.new_page(browser), []
        page.on("console", lambda message: refused.append(message.text))
        page.goto(f"http://127.0.0.1:{port}/")
        page.locator("form").evaluate("form => form.submit()")
        for directive in ("script-src", "frame-src", "form-action"):
            while not any(directive in line for line in refused):  # the test's time limit ends this loop
                page.wait_for_timeout(50)
        assert page.locator("html").get_attribute("lang") is None
        assert page.url == f"http://127.0.0.1:{port}/"
        page.close()
