"""A model's errors, counted from known predictions and from a run's test split."""

import base64
import io
import re
from pathlib import Path
from shutil import copytree, rmtree

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from support.served import Served, make_served
from support.terminal import retrain

from retrain.api import load_run
from retrain.cli.error_tables import error_tables
from retrain.data.images import decode_image
from retrain.pipeline.error_analysis import MISTAKES, THUMBNAIL, Prediction, SampleView, analyse_errors, make_thumbnail
from retrain.pipeline.mistake_keys import name_mistakes
from retrain.store import LocalStore
from retrain.store.task_store import TaskStore

PREDICTIONS = [
    *[Prediction("cat", "cat", 0.9)] * 6,
    *[Prediction("cat", "dog", 0.6)] * 2,
    Prediction("dog", "cat", 0.99),
    *[Prediction("dog", "dog", 0.8)] * 3,
    Prediction("emu", "dog", 0.7),
]


def test_recall_and_precision_match_a_count_by_hand() -> None:
    errors = analyse_errors(PREDICTIONS, ("cat", "dog", "fox"), lambda number: SampleView(f"#{number}"), new={"dog"})
    by_name = {one.name: one for one in errors.classes}
    assert list(by_name) == ["cat", "dog", "fox", "emu"]
    assert (by_name["cat"].recall, by_name["cat"].precision) == (6 / 8, 6 / 7)
    assert (by_name["dog"].recall, by_name["dog"].precision) == (3 / 4, 3 / 6)
    assert (by_name["emu"].recall, by_name["emu"].precision) == (0, None)
    assert by_name["fox"].recall is None
    assert (errors.samples, errors.accuracy) == (13, 9 / 13)
    assert (errors.accuracy_of(new=True), errors.accuracy_of(new=False)) == (3 / 4, 6 / 9)
    assert [(one.true, one.predicted, one.count) for one in errors.confusions] == [
        ("cat", "dog", 2),
        ("dog", "cat", 1),
        ("emu", "dog", 1),
    ]


def test_mistakes_are_the_most_confident_ones() -> None:
    errors = analyse_errors(PREDICTIONS, ("cat", "dog"), lambda number: SampleView(f"#{number}"))
    assert [(one.where, one.probability) for one in errors.mistakes] == [
        ("#8", 0.99),
        ("#12", 0.7),
        ("#6", 0.6),
        ("#7", 0.6),
    ]
    many = analyse_errors([Prediction("a", "b", 0.5)] * 100, ("a", "b"), lambda number: SampleView(f"#{number}"))
    assert len(many.mistakes) == MISTAKES
    assert many.accuracy == 0


def test_thumbnails_are_small_pictures() -> None:
    image = Image.open(io.BytesIO(base64.b64decode(make_thumbnail(Image.new("L", (400, 200), 7)))))
    assert (image.format, image.size) == ("PNG", (THUMBNAIL, THUMBNAIL // 2))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Return a task whose champion is the second run. This run continued from the first one, with a new class.

    Each training has only one epoch, so the champion is often wrong.
    """
    training = {"epochs": 1, "batch_size": 16, "evaluate_every": 1}
    served = make_served(tmp_path_factory.mktemp("errors"), 0, 1, 2, training=training)
    served.workspace.land(3, seed=2)
    served.retrain()
    return served


def test_error_analysis_agrees_with_evaluation_and_predictions(served: Served) -> None:
    record = served.workspace.store.ledger.read()[-1]
    errors, evaluation = served.workspace.store.run(record.run_id).errors(), record.evaluation
    assert errors is not None
    assert evaluation is not None
    assert errors.accuracy == evaluation.accuracy < 1
    assert {one.name: one.recall for one in errors.classes} == evaluation.by_class
    assert [one.name for one in errors.classes if one.is_new] == ["class-3"]
    files = served.test_files()
    predictions = load_run(served.task, record.run_id).predict(files)
    for mistake in errors.mistakes:
        drop, position = mistake.where.split(", test image ")
        first = 0 if drop == record.drops[0] else _test_samples(served, record.drops[0])
        number = first + int(position) - 1
        assert predictions.labels[number] == mistake.predicted
        assert float(predictions.probabilities[number].max()) == pytest.approx(mistake.probability, abs=1e-5)
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(mistake.thumbnail or ""))))
        assert np.array_equal(shown.transpose(2, 0, 1), decode_image(files[number], served.task.data.image_size))


def _test_samples(served: Served, drop: str) -> int:
    return served.workspace.store.drops.read(drop).samples("test")


def test_show_prints_the_error_analysis(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    record = served.workspace.store.ledger.read()[-1]
    ran = retrain(["show", record.run_id, "-t", served.file], capsys)
    assert record.evaluation is not None
    assert (
        f"{record.evaluation.accuracy:.2%} of {record.evaluation.samples} images classified correctly; old classes"
        in ran.out
    )
    assert "class-3 (new)" in ran.out
    assert "predicted" in ran.out
    assert f" of drop {record.drops[-1]}" in ran.out
    assert ", test image " not in ran.out


def test_narrow_terminal_shows_all_of_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    """Check that a path as long as three lines is wrapped, and that the texts in other columns are not wrapped."""
    path = "/".join(f"folder-{number:02d}" for number in range(20))
    predictions = [Prediction("a class of birds", "another class of birds", 0.5)]
    errors = analyse_errors(predictions, ("a class of birds",), lambda number: SampleView(path))
    console = Console(width=80)
    console.print(*error_tables(errors), sep="\n")
    shown = capsys.readouterr().out.rpartition("probability")[2]
    assert shown.count("50.00%") == shown.count("another class of birds") == 1
    assert "".join(shown.split()).endswith(path[-10:])
    assert "…" not in shown


def test_mistakes_are_named_by_the_key_of_the_image_shown(served: Served) -> None:
    store, size = served.workspace.store, served.task.data.image_size
    record = store.ledger.read()[-1]
    errors = store.run(record.run_id).errors()
    assert errors is not None
    named = name_mistakes(errors.mistakes, record.run_id, store)
    places = [one.where.split(" of drop ") for one in named]
    assert {drop for _, drop in places} == set(record.drops)
    served.workspace.draw(0, 1, 2, seed=1)
    for mistake, (key, drop) in zip(named, places, strict=True):
        file = served.workspace.folder / f"drop-{record.drops.index(drop) + 1}" / f"{key}.png"
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(mistake.thumbnail or ""))))
        assert np.array_equal(shown.transpose(2, 0, 1), decode_image(file.read_bytes(), size))


def test_mistakes_keep_their_positions_without_their_drop(served: Served, tmp_path: Path) -> None:
    copytree(served.workspace.store.url, tmp_path / "store")
    store = TaskStore(LocalStore(tmp_path / "store"), served.task.name)
    record = store.ledger.read()[-1]
    errors = store.run(record.run_id).errors()
    assert errors is not None
    rmtree(tmp_path / "store" / "pets" / "drops" / record.drops[0])
    for mistake, named in zip(errors.mistakes, name_mistakes(errors.mistakes, record.run_id, store), strict=True):
        assert (mistake.where == named.where) == (f"{record.drops[0]}, test image " in mistake.where)
    (tmp_path / "store" / "pets" / "runs" / record.run_id / "plan.json").unlink()
    assert name_mistakes(errors.mistakes, record.run_id, store) == errors.mistakes


def test_predict_evaluate_shows_accuracy_on_labelled_folders(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = served.images(0, 1, 2, each=4)
    (images / "class-9").mkdir()
    (images / "class-9" / "0.png").write_bytes((images / "class-0" / "0.png").read_bytes())
    (images / "class-1" / "bad.png").write_text("no image")
    ran = retrain(["predict", str(images), "-t", served.file, "--evaluate", "-o", str(tmp_path / "p.csv")], capsys)
    assert ran.code == 1
    assert "of 13 images classified correctly:" in ran.out
    assert "class-9" in ran.out
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 15
    (tmp_path / "paths.csv").write_text(f"image,species\n{images}/class-0/0.png,class-0\n")
    ran = retrain(["predict", str(tmp_path / "paths.csv"), "-t", served.file, "--evaluate"], capsys)
    assert "Pass the column of the true classes with --label-column" in " ".join(ran.err.split())
    label = ["--label-column", "species"]
    ran = retrain(["predict", str(tmp_path / "paths.csv"), "-t", served.file, "--evaluate", *label], capsys)
    assert "of 1 image classified correctly" in ran.out
    ran = retrain(["predict", str(served.images(0, 3, each=4, seed=5)), "-t", served.file, "--evaluate"], capsys)
    assert re.search(r"of 8 images classified correctly; old classes \d+\.\d\d%, new classes \d+\.\d\d%:", ran.out)
    assert "class-3 (new)" in ran.out
    assert "class-0 (new)" not in ran.out
