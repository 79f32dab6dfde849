"""TensorBoard reads every run's curve and summary from the event files."""

from pathlib import Path

import pytest
from support.lives import Life, make_task
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from retrain.cli import app
from retrain.pipeline import stages
from retrain.pipeline.planning import Request
from retrain.records import RunRecord
from retrain.store import LocalStore
from retrain.tracking.tensorboard_files import write_event_files


def test_event_files_hold_curve_and_summary(tmp_path: Path) -> None:
    life = Life(LocalStore(tmp_path / "store"), tmp_path)
    life.land(0, 1)
    record = stages.run_task(life.context, make_task(), Request())
    assert isinstance(record, RunRecord)
    assert [write_event_files(life.store, tmp_path / "board") for _ in range(2)] == [1, 0]
    assert [folder.name for folder in (tmp_path / "board").iterdir()] == [record.run_id]
    read = EventAccumulator(str(tmp_path / "board" / record.run_id)).Reload()
    curve = life.store.run(record.run_id).curve()
    assert [(event.step, event.value) for event in read.Scalars("val/accuracy")] == [
        (point.iteration, pytest.approx(point.accuracy)) for point in curve.points
    ]
    assert read.Scalars("test/accuracy")[0].value == pytest.approx(record.evaluation.accuracy)
    assert "training.batch_size | 16" in read.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()


def test_track_command_says_what_was_added(tmp_path: Path) -> None:
    task = tmp_path / "pets.yaml"
    task.write_text(f"name: pets\nstore: {tmp_path / 'store'}")
    board = tmp_path / "board"
    told = CliRunner().invoke(app, ["track", "--task", str(task), "--to", "tensorboard", "-o", str(board)])
    assert told.output.startswith("0 runs added; view them with `tensorboard --logdir ")
