"""Live metrics match the progress of the training, and take less than half a percent of its time."""

import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from support import monitoring
from support.programs import free_port, need
from support.trainings import TASK, plan_of, run_of
from torch.distributed import HashStore

from retrain.errors import UserError
from retrain.monitoring import names
from retrain.monitoring.live import LiveMetrics, iterations_to_target
from retrain.monitoring.observers import Observers, make_observers
from retrain.monitoring.web import serving
from retrain.pipeline import context
from retrain.records import Plan, Point
from retrain.store import LocalStore
from retrain.store.task_store import TaskStore
from retrain.training.distributed import TorchrunGroup
from retrain.training.loop import run_loop, train_step
from retrain.training.progress import Observer, Progress


def served_metrics(live: LiveMetrics) -> dict[str, dict[monitoring.Labels, float]]:
    """Return the served metrics by name."""
    registry = CollectorRegistry()
    registry.register(live)
    values: dict[str, dict[monitoring.Labels, float]] = {}
    for (name, labels), value in monitoring.samples(generate_latest(registry).decode()).items():
        values.setdefault(name, {})[labels - {("task", "pets"), ("method", "scratch")}] = value
    return values


def point_at(iteration: int, accuracy: float) -> Point:
    """Return a point of a curve."""
    return Point(iteration=iteration, accuracy=accuracy, loss=1.0, images=1, train_loss=1.0, learning_rate=0.1)


class Scraper:
    """An observer that compares the metrics of `live` with the training at each evaluation, and records them."""

    def __init__(self, live: LiveMetrics) -> None:
        self.live = live
        self.seen: list[tuple[Progress, dict[str, dict[monitoring.Labels, float]]]] = []

    def started(self, plan: Plan, progress: Progress) -> None:
        self.progress = progress

    def stepped(self, progress: Progress) -> None:
        pass

    def evaluated(self, point: Point) -> None:
        progress = self.progress
        assert served_metrics(self.live)["retrain_training_iteration"] == {frozenset(): progress.iteration}
        assert served_metrics(self.live)["retrain_training_accuracy_ratio"] == {frozenset(): point.accuracy}
        assert served_metrics(self.live)["retrain_training_learning_rate"] == {frozenset(): point.learning_rate}
        losses = {frozenset({("split", "val")}): point.loss, frozenset({("split", "train")}): point.train_loss}
        assert served_metrics(self.live)["retrain_training_loss"] == losses
        self.seen.append((progress, served_metrics(self.live)))

    def ended(self, outcome: str, progress: Progress) -> None:
        self.outcome = outcome


@pytest.fixture(scope="module")
def watched() -> tuple[LiveMetrics, Scraper]:
    """Return the live metrics of a real training, and the observer that read them at each evaluation."""
    live, run = LiveMetrics(), run_of(plan_of())
    scraper = Scraper(live)
    run_loop(run, Observers(live, scraper), save=lambda run: None, leaving=lambda: False)
    return live, scraper


def test_live_metrics_match_the_curve(watched: tuple[LiveMetrics, Scraper]) -> None:
    _, scraper = watched
    images = [values["retrain_training_images_total"][frozenset()] for _, values in scraper.seen]
    points = scraper.progress.points
    assert images == [point.iteration * TASK.training.batch_size for point in points]
    assert len(points) > 3


def test_counters_of_a_training_never_fall(watched: tuple[LiveMetrics, Scraper]) -> None:
    live, scraper = watched
    rows = [values for _, values in scraper.seen] + [served_metrics(live)]
    for before, after in pairwise(rows):
        for name in ("retrain_training_images_total", "retrain_training_seconds_total"):
            assert after[name][frozenset()] >= before[name][frozenset()]
        aside = "retrain_training_aside_seconds_total"
        assert all(after[aside][labels] >= value for labels, value in before[aside].items())


def test_time_outside_training_steps_matches_the_progress(watched: tuple[LiveMetrics, Scraper]) -> None:
    live, scraper = watched
    progress, values = scraper.progress, served_metrics(live)
    aside = {dict(labels)["phase"]: value for labels, value in values["retrain_training_aside_seconds_total"].items()}
    assert aside["evaluation"] == pytest.approx(progress.evaluation_seconds)
    assert aside["evaluation"] > 0
    assert aside["saving"] == pytest.approx(progress.saving_seconds)
    assert sum(aside.values()) == pytest.approx(progress.aside_seconds + progress.data_seconds)
    assert values["retrain_training_seconds_total"][frozenset()] == pytest.approx(progress.seconds)


def test_live_metrics_exist_only_during_training(
    watched: tuple[LiveMetrics, Scraper],
) -> None:
    live, _ = watched
    assert served_metrics(LiveMetrics()) == {}
    assert "retrain_training_eta_seconds" not in served_metrics(live)


def test_training_serves_exactly_the_metrics_of_its_group() -> None:
    live, progress = LiveMetrics(), Progress()
    live.started(plan_of(target=0.9), progress)
    progress.iteration, progress.points = 5, [point_at(5, 0.5)]
    group = names.GROUPS["An active training"]
    assert served_metrics(live).keys() == {name.name for name in group}


def test_time_to_target_follows_the_last_evaluations() -> None:
    """The last points rise by 0.15 in 60 iterations. So they reach 0.75 at iteration 140, 20 after iteration 120."""
    progress = Progress(
        iteration=120,
        points=[point_at(20, 0.1), point_at(40, 0.5), point_at(60, 0.55), point_at(80, 0.6), point_at(100, 0.65)],
    )
    assert iterations_to_target(progress, 0.75) == pytest.approx(100 + (0.75 - 0.65) / (0.15 / 60) - 120)
    assert iterations_to_target(progress, 0.65) == 0


@pytest.mark.parametrize(
    "points", [[], [point_at(20, 0.5)], [point_at(20, 0.5), point_at(40, 0.5)], [point_at(20, 0.5), point_at(40, 0.4)]]
)
def test_time_to_target_is_absent_without_improvement(points: list[Point]) -> None:
    assert iterations_to_target(Progress(iteration=40, points=points), 0.9) is None


def test_estimate_is_never_later_than_the_schedules_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("retrain.monitoring.live.time", SimpleNamespace(monotonic=lambda: now[0]))
    live, progress = LiveMetrics(), Progress()
    plan = plan_of(target=0.9)
    live.started(plan, progress)
    now[0] += 10
    progress.iteration, progress.points = plan.iterations // 2, [point_at(1, 0.1), point_at(2, 0.10001)]
    values = served_metrics(live)
    pace = values["retrain_training_seconds_total"][frozenset()] / progress.iteration
    left = values["retrain_training_eta_seconds"][frozenset()]
    assert left == pytest.approx((plan.iterations - progress.iteration) * pace)


def seconds(action: Callable[[], object], times: int) -> float:
    """Return the processor time of one call, in seconds: the smallest mean of five series of calls."""

    def once() -> float:
        start = time.thread_time()
        for _ in range(times):
            action()
        return (time.thread_time() - start) / times

    return min(once() for _ in range(5))


def test_metrics_cost_below_half_a_percent_of_a_step() -> None:
    run, live = run_of(plan_of()), LiveMetrics()
    observers = Observers(live)
    live.started(run.plan, run.progress)
    update_share = seconds(lambda: observers.stepped(run.progress), 1000) / seconds(lambda: train_step(run), 10)
    scrape_share = seconds(lambda: served_metrics(live), 10) / 15
    assert update_share + scrape_share < 0.005


def test_promtool_accepts_the_training_metrics(watched: tuple[LiveMetrics, Scraper]) -> None:
    registry = CollectorRegistry()
    registry.register(watched[0])
    command = [need("promtool", "prometheus"), "check", "metrics"]
    checked = subprocess.run(command, input=generate_latest(registry), capture_output=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_run_serves_metrics_only_if_a_port_is_set(tmp_path: Path) -> None:
    port = free_port()
    observer = make_observers(port, "127.0.0.1")
    observer.started(plan_of(), Progress(iteration=7))
    assert (
        monitoring.samples(monitoring.get(f"http://127.0.0.1:{port}/metrics"))[
            "retrain_training_iteration", frozenset({("task", "pets"), ("method", "scratch")})
        ]
        == 7
    )
    assert not isinstance(make_observers(None, "127.0.0.1"), Observers)


@pytest.mark.parametrize(("rank", "observers"), [(0, 1), (1, 0)])
def test_only_the_first_rank_serves_live_metrics(
    rank: int, observers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chart's PodMonitor scrapes only the pod of rank 0."""
    monkeypatch.setattr(context, "init_distributed", lambda device: TorchrunGroup(HashStore(), rank, 2))
    made: list[Observer] = []

    def make_observer() -> Observer:
        made.append(make_observers(free_port(), "127.0.0.1"))
        return made[-1]

    opened = context.make_context(TaskStore(LocalStore(tmp_path), "pets"), TASK, "cpu", make_observer)
    assert (opened.ranks.rank, len(made)) == (rank, observers)
    assert not observers or opened.observer is made[0]


def test_run_on_a_used_metrics_port_is_refused() -> None:
    with serving("0.0.0.0", 0, lambda environ, start_response: []) as port, pytest.raises(UserError, match=f"{port}"):
        make_observers(port, "127.0.0.1")
