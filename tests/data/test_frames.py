"""Images that are not square are resized to the task's frame (its image size and method of resizing) and trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from support.pictures import encoded, picture
from support.trainings import TASK, commit_drops, context_of

from retrain.config.frame import Frame, as_frame
from retrain.config.task import Data, Model, Stream, Task
from retrain.data.images import decode_image
from retrain.models.factory import build_network, check_network
from retrain.models.flops import count_flops
from retrain.pipeline import stages
from retrain.pipeline.planning import Request
from retrain.records import ModelInput


def image_of(height: int, width: int) -> Image.Image:
    return Image.fromarray(picture(5, 64)).resize((width, height))


def test_crop_fills_the_frame() -> None:
    image = image_of(40, 60)
    expected = np.asarray(ImageOps.fit(image, (24, 8))).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode_image(encoded(image), Frame(8, 24)), expected)
    np.testing.assert_array_equal(decode_image(encoded(image), (8, 24)), expected)


def test_letterbox_shows_all_of_the_image_on_black() -> None:
    white = Image.new("RGB", (60, 20), "white")
    found = decode_image(encoded(white), Frame(24, 24, "letterbox"))
    assert found.shape == (3, 24, 24)
    assert (found[:, 8:16] == 255).all()
    assert not found[:, :8].any()
    assert not found[:, 16:].any()


def test_stretch_fills_the_frame_with_all_of_the_image() -> None:
    image = image_of(40, 60)
    expected = np.asarray(image.resize((24, 8), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode_image(encoded(image), Frame(8, 24, "stretch")), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("fit", ["crop", "letterbox", "stretch"])
def test_frame_applies_to_the_image_turned_upright(fit: str, kind: str) -> None:
    """An image that is stored on its side, with an EXIF orientation, decodes like the same image stored upright."""
    upright = image_of(48, 32)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    lying = encoded(upright.transpose(Image.Transpose.ROTATE_90), kind, exif=exif)
    frame = Frame(12, 20, fit)
    difference = decode_image(lying, frame).astype(int) - decode_image(encoded(upright), frame)
    assert np.abs(difference).max() <= 2


def test_orientation_that_exif_does_not_define_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    image, frame = image_of(32, 48), Frame(12, 20)
    np.testing.assert_array_equal(decode_image(encoded(image, exif=exif), frame), decode_image(encoded(image), frame))


def test_text_of_a_frame_states_its_size_and_fit() -> None:
    assert str(as_frame(32)) == str(Data(image_size=(32, 32)).frame) == "32"
    assert str(Data(image_size=(96, 160), fit="letterbox").frame) == "96x160-letterbox"
    assert Data(image_size=(32, 32)) == Data(image_size=32)


@pytest.mark.parametrize(
    "model",
    [
        Model(options={"width": 4}),
        Model(name="mlp"),
        Model(name="logistic"),
        Model(name="mixer"),
    ],
    ids=lambda model: model.name,
)
def test_networks_accept_non_square_images(model: Model) -> None:
    check_network(model, 3, (32, 48))
    network = build_network(model, 3, (32, 48), seed=0).eval()
    assert network(torch.zeros(2, 3, 32, 48)).shape == (2, 3)


def test_flops_follow_the_image_shape() -> None:
    network = build_network(Model(name="mlp", options={"width": 10}), 3, (4, 6), seed=0)
    assert count_flops(network, (4, 6)).evaluation == 2 * (3 * 4 * 6 * 10 + 10 * 10 + 10 * 3)


@pytest.mark.parametrize("loader", ["memory", "stream"])
def test_run_completes_on_letterboxed_images(tmp_path: Path, loader: str) -> None:
    commit_drops(tmp_path)
    data = Data(image_size=(8, 12), fit="letterbox", crop_padding=1, loader=loader, stream=Stream(workers=0))
    training = TASK.training.model_copy(update={"epochs": 1})
    task = Task(name="pets", store=str(tmp_path / "store"), data=data, training=training, model=Model(name="mlp"))
    context = context_of(tmp_path)
    record = stages.run_task(context, task, Request())
    assert record.outcome == "completed"
    taken = ModelInput.of(context.files(record.run_id).plan())
    assert (taken.shape, taken.fit) == ((3, 8, 12), "letterbox")
