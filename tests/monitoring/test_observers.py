"""Without a terminal, log lines regularly report the progress of a training."""

import logging
from types import SimpleNamespace

import pytest
import torch
from support.trainings import plan_of

from retrain.config import Purpose
from retrain.monitoring import observers
from retrain.monitoring.observers import LogLines, ProgressBar
from retrain.records import Point
from retrain.training.progress import Progress


def test_log_has_lines_between_evaluations(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training makes two iterations a second, with 32 images each.

    An evaluation is logged even if another line was logged shortly before.
    """
    progress, lines = Progress(), LogLines()
    monkeypatch.setattr(observers, "time", SimpleNamespace(monotonic=lambda: progress.iteration / 2))
    with caplog.at_level(logging.INFO, "retrain"):
        lines.started(plan_of(sizes=(1600,)), progress)
        for progress.iteration in range(1, 81):
            lines.stepped(progress)
            if progress.iteration == 31:
                point = Point(iteration=31, accuracy=0.5, loss=1.0, images=1, train_loss=1.0, learning_rate=0.1)
                lines.evaluated(point)
    assert caplog.messages[1:] == [
        "30/400 iterations, 64 images/s, at most 3 min left",
        "31/400 iterations, 50.00% on val, 64 images/s, at most 3 min left",
        "61/400 iterations, 64 images/s, at most 3 min left",
    ]


@pytest.mark.parametrize(("seconds", "hints"), [(5, 1), (2, 0)])
def test_slow_training_without_a_gpu_gets_one_hint(
    seconds: int, hints: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 iterations of five seconds take 33 minutes. This is slow. With two seconds each, they take 13 minutes."""
    progress, lines = Progress(), LogLines()
    monkeypatch.setattr(observers, "time", SimpleNamespace(monotonic=lambda: progress.iteration * seconds))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.INFO, "retrain"):
        lines.started(plan_of(sizes=(1600,)), progress)
        for progress.iteration in range(1, 10):
            lines.stepped(progress)
    assert [record.levelname for record in caplog.records].count("WARNING") == hints
    if hints:
        assert "without a GPU this training takes up to 33 min; for a quick try set a smaller" in caplog.text


@pytest.mark.parametrize(("purpose", "known", "shown"), [("retrain", 0, 1), ("trial", 0, 0), ("trial", 1, 1)])
def test_start_of_a_training_logs_the_plans_warnings(
    purpose: Purpose, known: int, shown: int, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"warnings": ("a warning",), "purpose": purpose, "known": known}
    plan = plan_of(sizes=(1600,)).model_copy(update=given)
    for observer in (LogLines(), ProgressBar()):
        observer.started(plan, Progress())
        observer.ended("reached", Progress())
    assert caplog.messages.count("a warning") == capsys.readouterr().err.count("a warning") == shown


def test_scores_for_a_carried_target_name_the_compared_part(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with 81% on val can have reached a target of 85%, because the target covers only a part of val."""
    plan = plan_of(sizes=(1600,), target=0.85)
    progress = Progress(iteration=31)
    point = Point(iteration=31, accuracy=0.81, loss=1.0, images=100, train_loss=1.0, learning_rate=0.1, in_scope=0.8525)
    progress.points.append(point)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    for observer in (LogLines(), ProgressBar()):
        with caplog.at_level(logging.INFO, "retrain"):
            observer.started(plan, progress)
            observer.evaluated(point)
            observer.ended("reached", progress)
    full = "reached after 31 iterations, 81.00% on val, 85.25% on the baseline's part of val (target 85.00%)"
    assert caplog.messages[-1].endswith(full)
    drawn = capsys.readouterr().err
    assert "85.25% (target 85.00%), val 81.00%" in drawn, "the bar has one line of 80 columns"
    assert full in " ".join(drawn.split())
