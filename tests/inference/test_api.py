"""The Python API, as a notebook uses it."""

import io
import json
import os
import subprocess
import sys
from operator import eq
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from support.served import Served, make_served

import retrain
from retrain.data.images import decode_image
from retrain.inference.loading import find_source, load_model


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return make_served(tmp_path_factory.mktemp("api"), 0, 1, 2)


def test_import_of_the_package_loads_neither_torch_nor_pydantic() -> None:
    code = "import sys, retrain; dir(retrain); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) & {"torch", "pydantic", "numpy", "yaml"} == set()


def test_api_has_every_listed_name_and_refuses_unknown_names() -> None:
    for name in retrain.__all__:
        assert getattr(retrain, name).__module__.startswith("retrain.")
        assert name in dir(retrain)
    with pytest.raises(AttributeError, match="no attribute 'champion'"):
        retrain.champion  # noqa: B018


def test_champion_is_loaded_by_task_file_and_store_folder(served: Served) -> None:
    expected = served.workspace.store.champion.read().run_id
    folder = f"{served.task.store}/pets"
    for source in (served.task, served.file, folder, f"{folder}/", Path(folder)):
        model = retrain.load_champion(source, device="cpu")
        assert (model.run_id, model.classes) == (expected, ("class-0", "class-1", "class-2"))


def test_name_of_a_task_wins_over_a_folder_of_this_name(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are often in a folder with the name of their task."""
    (tmp_path / "pets").mkdir()
    monkeypatch.setenv("RETRAIN_TASKS", str(Path(served.file).parent))
    monkeypatch.chdir(tmp_path)
    assert retrain.load_champion(Path(served.file).stem).classes == ("class-0", "class-1", "class-2")


def test_predict_agrees_with_the_network_on_every_kind_of_input(served: Served) -> None:
    model = retrain.load_champion(served.file)
    paths = sorted(served.images(0, 1, 2).rglob("*.png"))
    predictions = model.predict(paths)
    assert sum(map(eq, predictions.labels, [path.parent.name for path in paths])) >= 8
    assert torch.allclose(predictions.probabilities.sum(1), torch.ones(9))

    by_hand = torch.stack([torch.from_numpy(decode_image(path.read_bytes(), 8)) for path in paths])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (served.task.data.mean, served.task.data.std))
    with torch.no_grad():
        logits = model.network((by_hand / 255 - mean) / std)
    torch.testing.assert_close(predictions.logits, logits)
    assert predictions.labels == [model.classes[index] for index in logits.argmax(1).tolist()]

    inputs = torch.stack([model.preprocess(path) for path in paths])
    torch.testing.assert_close(model.predict(inputs).logits, logits)
    assert torch.equal(model.predict(by_hand).logits, predictions.logits)
    assert torch.equal(model.predict([path.read_bytes() for path in paths]).logits, predictions.logits)
    assert torch.equal(model.predict([Image.open(path) for path in paths]).logits, predictions.logits)
    torch.testing.assert_close(model.predict(paths, batch_size=2).logits, logits)


@pytest.mark.parametrize(("mode", "kind"), [("RGB", "PNG"), ("RGB", "TIFF"), ("CMYK", "JPEG"), ("LA", "PNG")])
@pytest.mark.parametrize("side", [8, 12])
def test_opened_image_gives_the_same_pixels_as_its_file(served: Served, mode: str, kind: str, side: int) -> None:
    """Decode images of the model's size (8 pixels) and of a larger size. EXIF turns them by 90 degrees.

    The opened image must not change.
    """
    preprocess, exif, file = retrain.load_champion(served.file).preprocess, Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = 6
    pixels = np.random.default_rng(0).bytes(side * side * len(mode))
    Image.frombytes(mode, (side, side), pixels).save(file, kind, exif=exif)
    with Image.open(io.BytesIO(file.getvalue())) as image:
        before = image.tobytes()
        assert np.array_equal(preprocess.decode(image), preprocess.decode(file.getvalue()))
        assert image.tobytes() == before


def test_method_top_sorts_classes_by_probability(served: Served) -> None:
    model = retrain.load_champion(served.file)
    predictions = model.predict([next(served.images(1).rglob("*.png"))])
    (ranked,) = predictions.top(10)
    assert ranked[0].label == predictions.labels[0]
    values = [one.probability for one in ranked]
    assert len(values) == 3
    assert values == sorted(values, reverse=True)
    assert len(model.predict([])) == 0


def test_error_names_the_image_that_cannot_be_read(served: Served, tmp_path: Path) -> None:
    model = retrain.load_champion(served.file)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(retrain.ImageError, match=r"text\.png: cannot be decoded: not an image"):
        model.predict([tmp_path / "text.png"])
    with pytest.raises(retrain.ImageError, match=r"none\.png: cannot be read: No such file"):
        model.predict([tmp_path / "none.png"])
    with pytest.raises(retrain.ImageError, match=r"'a\\x00b' is not a path: it contains a zero byte"):
        model.predict(["a\0b"])
    with pytest.raises(retrain.ImageError, match="cannot be decoded: its pixels are numbers of 32 bits"):
        model.predict([Image.new("F", (8, 8))])
    with pytest.raises(TypeError, match=r"pass \[image\]"):
        model.predict(str(tmp_path / "text.png"))
    with pytest.raises(TypeError, match="a path, bytes of an image file or a Pillow image, not ndarray"):
        model.predict([np.zeros((8, 8, 3), np.uint8)])  # type: ignore[list-item]


def test_tensor_of_another_size_is_refused(served: Served) -> None:
    model = retrain.load_champion(served.file)
    for shape in ((2, 3, 9, 9), (3, 8, 8)):
        with pytest.raises(retrain.UserError, match=r"a tensor of shape .* does not fit: .* expects \[N, 3, 8, 8\]"):
            model.predict(torch.zeros(shape))


def test_batch_size_below_one_is_refused(served: Served) -> None:
    with pytest.raises(ValueError, match="must be at least 1, not 0"):
        retrain.load_champion(served.file).predict(served.test_files(), batch_size=0)


def test_empty_run_id_is_refused(served: Served) -> None:
    with pytest.raises(retrain.UserError, match="is not a key"):
        retrain.load_run(served.file, "")


def test_missing_champion_or_run_or_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pets.yaml").write_text(json.dumps({"name": "pets", "store": str(tmp_path / "store")}))
    with pytest.raises(retrain.UserError, match="task pets has no champion yet"):
        retrain.load_champion(tmp_path / "pets.yaml")
    with pytest.raises(retrain.UserError, match="there is no run scratch-1"):
        retrain.load_run(tmp_path / "pets.yaml", "scratch-1")
    with pytest.raises(retrain.UserError, match="not a task's folder in a store"):
        retrain.load_champion(f"{os.fspath(tmp_path)}/")


def test_factory_in_a_store_runs_only_if_the_caller_names_it(tmp_path: Path) -> None:
    factory = "support.trainings:dropout_net"
    served = make_served(tmp_path, 0, 1, model={"name": factory}, factories=[factory])
    folder = f"{served.task.store}/pets"
    with pytest.raises(
        retrain.UserError, match=rf"`factories` in the task file, or in Python pass factories=\['{factory}'\]"
    ):
        retrain.load_champion(folder)
    assert retrain.load_champion(folder, factories=[factory]).classes == ("class-0", "class-1")


def test_run_retrains_and_records_the_run(tmp_path: Path) -> None:
    served = make_served(tmp_path, 0, 1)
    served.workspace.land(2, seed=2)
    record = retrain.run(served.task)
    assert record is not None
    assert record.parent == retrain.ledger(served.file)[0].run_id
    assert retrain.ledger(served.task)[-1] == record
    assert retrain.run(served.file) is None
    frame = retrain.ledger_frame(served.task)
    assert list(frame["run_id"]) == [one.run_id for one in retrain.ledger(served.task)]
    assert frame["savings.net"].iloc[-1] == record.savings.net


def test_run_updates_the_trackers_of_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    address = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    served = make_served(tmp_path, 0, 1, tracking={"mlflow": True})
    served.workspace.land(2, seed=2)
    record = retrain.run(served.task)
    assert record is not None
    version = MlflowClient(address, address).get_model_version_by_alias("pets", "champion")
    assert version.tags["retrain.run_id"] == served.workspace.store.champion.read().run_id == record.run_id


def test_older_runs_are_loaded_by_their_id(tmp_path: Path) -> None:
    served = make_served(tmp_path, 0, 1)
    first = served.workspace.store.champion.read().run_id
    assert first is not None
    served.workspace.land(2, seed=2)
    served.retrain()
    assert len(retrain.load_champion(served.task).classes) == 3
    assert retrain.load_run(served.task, first).classes == ("class-0", "class-1")
    assert load_model(find_source(served.task), first).run_id == first
