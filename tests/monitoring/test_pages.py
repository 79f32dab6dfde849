"""If drawing a page crashes or hangs, the server replies with an error. The next page is not affected."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from support import known_ledger, monitoring
from test_web import send_request

from retrain.config.task import Task
from retrain.monitoring import pages
from retrain.monitoring.exporter import Exporter
from retrain.monitoring.pages import Pages
from retrain.monitoring.server import exporter_app
from retrain.monitoring.web import THREADS, serving
from retrain.store import LocalStore
from retrain.store.keys import TaskKeys


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    """Return a record that blocks its reader (a pipe without a writer). The other records can be read."""
    store = LocalStore(tmp_path / "store")
    known_ledger.write(store, known_ledger.pets())
    record = store.root / TaskKeys("pets").record("hanging")
    os.mkfifo(record)
    return record


@pytest.fixture
def port(hanging: Path, tmp_path: Path) -> Iterator[int]:
    """Yield the port of a server that serves the page of this ledger."""
    task = Task(name="pets", store=str(tmp_path / "store"))
    with serving("127.0.0.1", 0, exporter_app(Exporter([]), Pages({task.name: task}))) as port:
        yield port


@pytest.fixture
def drawing() -> Callable[[], list[BaseProcess]]:
    """Return a function that lists the drawing processes that this test has started."""
    earlier = multiprocessing.active_children()  # processes of other tests still run
    return lambda: [process for process in multiprocessing.active_children() if process not in earlier]


def page(port: int) -> tuple[int, str]:
    answer = send_request(port, "/")
    return answer.status, answer.read().decode()


def test_page_is_served_after_its_renderer_was_killed(
    port: int, hanging: Path, drawing: Callable[[], list[BaseProcess]]
) -> None:
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(page, port)
        monitoring.wait_for(drawing, "the process that draws")
        for process in drawing():
            process.kill()
        assert asked.result() == (
            503,
            "drawing the page of pets: its process was killed by SIGKILL (perhaps for lack of memory)\n",
        )
    hanging.unlink()
    status, html = page(port)
    assert status == 200
    assert "continuous-4" in html


def test_request_during_a_slow_page_rendering_is_refused(
    port: int, drawing: Callable[[], list[BaseProcess]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "WAIT_SECONDS", 0.1)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(page, port)
        monitoring.wait_for(drawing, "the process that draws")
        assert page(port) == (503, "pets: another page is still being drawn; reload this one in a minute\n")
        for process in drawing():
            process.kill()
        assert first.result()[0] == 503


def test_health_is_answered_while_many_requests_want_a_page(
    port: int, hanging: Path, drawing: Callable[[], list[BaseProcess]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "WAIT_SECONDS", 600)
    wanted = 2 * THREADS
    with ThreadPoolExecutor(wanted) as threads:
        asked = [threads.submit(page, port) for _ in range(wanted)]
        refused = [future.result() for future in islice(as_completed(asked, timeout=60), wanted - pages.REQUESTS)]
        assert {status for status, _ in refused} == {503}
        assert send_request(port, "/healthz").status == 200
        hanging.unlink()
        for process in drawing():
            process.kill()
        assert sorted(future.result()[0] for future in asked)[: pages.REQUESTS - 1] == [200] * (pages.REQUESTS - 1)


def test_fresh_page_is_served_while_another_page_is_drawn(
    tmp_path: Path, hanging: Path, drawing: Callable[[], list[BaseProcess]]
) -> None:
    tasks = {name: Task(name=name, store=str(tmp_path / "store")) for name in ("dogs", "pets")}
    both = Pages(tasks)
    fresh = both.get("dogs")
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(both.get, "pets")
        monitoring.wait_for(drawing, "the process that draws")
        assert both.get("dogs") == fresh
        assert not slow.done()
        for process in drawing():
            process.kill()


def test_hanging_page_renderer_is_killed(
    port: int, drawing: Callable[[], list[BaseProcess]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "DRAW_SECONDS", 1)
    assert page(port) == (503, "drawing the page of pets: not done after 1 s, so it was killed\n")
    assert drawing() == []
