"""`retrain export`: the content of the folder, and programs that give the same results as the network."""

import hashlib
import io
import json
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image
from safetensors import safe_open
from support.pictures import encoded
from support.served import Served, make_served
from support.terminal import Ran, retrain
from torch import Tensor, nn

from retrain.api import load_champion
from retrain.config.task import Gate
from retrain.data.sample_table import USES
from retrain.data.samples import Samples
from retrain.data.table_making import read_or_make_table
from retrain.errors import ModelError
from retrain.export.card import _cell
from retrain.export.parity import compare_program
from retrain.export.programs import Format, Program, write_program
from retrain.pipeline import stages
from retrain.pipeline.planning import Request
from retrain.utils import extras

RESNET = {"name": "resnet18", "options": {"width": 4}}
"""A network with strided shortcuts and BatchNorm, which is computed differently in prediction and in training."""
TRAINING = {"epochs": 4, "batch_size": 16, "evaluate_every": 2}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return make_served(tmp_path_factory.mktemp("export"), 0, 1, 2, model=RESNET, training=TRAINING)


@pytest.fixture(scope="module")
def folder(served: Served) -> Path:
    """Return the folder of the champion, exported in all formats. Its parent folder did not exist before."""
    output = served.workspace.folder / "new" / "exported"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRAIN_CACHE", str(served.workspace.folder / "cache"))
        code = call("--task", served.file, "-o", output, "--onnx", "--torch-export")
    assert code == 0
    return output


def call(*arguments: object) -> int:
    from support.terminal import call as call_in_process

    return call_in_process(["export", *map(str, arguments)])


def export(output: pytest.CaptureFixture[str], *arguments: object) -> Ran:
    return retrain(["export", *map(str, arguments)], output)


def preprocess(file: bytes, config: dict[str, Any]) -> NDArray[np.float32]:
    """Return an image as [3, H, W], preprocessed only by the settings in config.json."""
    given = config["preprocessing"]
    image = Image.open(io.BytesIO(file)).convert(given["color"]).resize((given["width"], given["height"]))
    pixels = (np.asarray(image, np.float32) / 255 - given["mean"]) / given["std"]
    return np.asarray(pixels.transpose(2, 0, 1), np.float32)


def test_exported_programs_agree_with_the_api_on_the_test_split(served: Served, folder: Path) -> None:
    config, files = json.loads((folder / "config.json").read_text()), served.test_files()
    expected = load_champion(served.file).predict(files).labels
    assert len(expected) == served.workspace.store.ledger.read()[-1].evaluation.samples > 10
    assert len(set(expected)) > 1
    images = np.stack([preprocess(file, config) for file in files])
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    program = torch.export.load(folder / "model.pt2").module()
    for logits in (
        session.run(["logits"], {"images": images})[0],
        np.concatenate([session.run(["logits"], {"images": image[None]})[0] for image in images]),
        program(torch.from_numpy(images)).detach().numpy(),
    ):
        assert [config["id2label"][str(index)] for index in logits.argmax(1)] == expected


def make_unusual_images(rgb: NDArray[np.uint8]) -> dict[str, bytes]:
    """Return image files in modes that need more than `convert("RGB")`."""
    plain, wide, exif = Image.fromarray(rgb), Image.fromarray(rgb[:20]), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    seen, hidden = Image.fromarray(np.uint8(rgb[..., 0])), Image.fromarray(np.uint8(rgb[..., 1]))
    palette = plain.quantize(16)
    return {
        "rgba": encoded(Image.merge("RGBA", (*plain.split(), hidden))),
        "grey and alpha": encoded(Image.merge("LA", (seen, hidden))),
        "16 bits": encoded(Image.fromarray(rgb[..., 0].astype(np.uint16) * 257)),
        "16 bits, rotated": encoded(Image.fromarray(rgb[:20, :, 0].astype(np.uint16) * 257), exif=exif),
        "rotated": encoded(wide, exif=exif),
        "palette": encoded(palette),
        "palette, transparent": encoded(palette, transparency=palette.getpixel((0, 0))),
        "cmyk": encoded(plain.convert("CMYK"), "TIFF"),
    }


def test_documented_code_agrees_with_predict(
    served: Served, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    (code,) = (block for block in re.findall(r"```python\n(.+?)```", page, re.DOTALL) if "onnxruntime" in block)
    monkeypatch.chdir(tmp_path)
    Path("birds-model").symlink_to(folder)
    model = load_champion(served.file)
    rgb = np.add.outer(np.arange(32) * 4, np.add.outer(np.arange(32) * 3, [0, 20, 90])).clip(0, 255).astype(np.uint8)
    for name, file in make_unusual_images(rgb).items():
        Path("a.jpg").write_bytes(file)
        *steps, label = code.splitlines()
        found: dict[str, Any] = {}
        exec("\n".join(steps), found)
        step = 1 / 255 / min(found["given"]["std"])  # the distance between two consecutive 8-bit values
        expected = model.preprocess("a.jpg").numpy()
        np.testing.assert_allclose(found["pixels"].transpose(2, 0, 1), expected, atol=1.01 * step, err_msg=name)
        assert [eval(label, found)] == model.predict(["a.jpg"]).labels, name


def test_config_states_how_images_are_read(folder: Path) -> None:
    given = json.loads((folder / "config.json").read_text())["preprocessing"]
    assert given["background"] == "white"
    assert "EXIF" in given["orientation"]
    assert "16 bits" in given["depth"]


def test_predict_agrees_with_the_api_on_the_test_split(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = served.test_files()
    for number, file in enumerate(files):
        (tmp_path / f"{number:04}.png").write_bytes(file)
    ran = retrain(["predict", str(tmp_path), "--task", str(served.file), "--format", "jsonl"], capsys)
    named = {answer["image"]: answer["class"] for answer in map(json.loads, ran.out.splitlines())}
    assert [named[image] for image in sorted(named)] == load_champion(served.file).predict(files).labels


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_timm_loads_the_exported_folder_of_a_timm_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """The images have 32x32 pixels. timm's default for `test_vit` is 160x160."""
    model = {"name": f"timm/{name}", "stem": "standard", "options": {"drop_rate": 0.1}}
    served = make_served(tmp_path, 0, 1, model=model, data={"image_size": 32}, training={"epochs": 1, "batch_size": 16})
    assert export(capsys, "-t", served.file, "-o", tmp_path / "out").code == 0
    loaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), load_champion(served.file).network(images), atol=1e-4, rtol=1e-4)


def test_folder_has_weights_classes_and_a_card(served: Served, folder: Path) -> None:
    names = {"README.md", "config.json", "model.onnx", "model.pt2", "model.safetensors"}
    assert {path.name for path in folder.iterdir()} == names
    assert list(folder.parent.iterdir()) == [folder]
    config, card = json.loads((folder / "config.json").read_text()), (folder / "README.md").read_text()
    assert config["id2label"] == {"0": "class-0", "1": "class-1", "2": "class-2"}
    assert config["label2id"]["class-2"] == 2
    assert config["architecture"] == "resnet18"
    assert config["pretrained_cfg"]["input_size"] == [3, 8, 8]
    record = served.workspace.store.ledger.read()[-1]
    assert record.evaluation is not None
    assert f"{record.evaluation.accuracy:.2%} of {record.evaluation.samples} images" in card
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() in card
    assert "its own baseline" in card
    assert "| network | resnet18, width 4 |" in card
    for name, accuracy in record.evaluation.by_class.items():
        assert f"| {name} | {accuracy:.2%} |" in card
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "run_id": record.run_id}
        assert set(file.keys()) == set(served.workspace.store.run(record.run_id).weights())


def test_card_of_a_continued_run_states_its_savings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = make_served(tmp_path, 0, 1)
    served.workspace.land(2, seed=2)
    record = served.retrain()
    assert export(capsys, record.run_id, "-t", served.file, "-o", tmp_path / "out").code == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert record.savings is not None
    assert f"{record.savings.gross:+,} " in card
    assert f"`continuous` and started from the weights of {record.parent}" in card
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_card_states_whether_a_person_decided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = make_served(tmp_path, 0, 1)
    waiting = replace(served, task=served.task.model_copy(update={"gate": Gate(approval="manual")}))
    waiting.workspace.land(2, seed=2)
    stages.run_task(waiting.workspace.context, waiting.task, Request())
    (approval,) = waiting.workspace.store.approvals.unfinished()
    run_id = approval.run_id

    def sentence(name: str) -> str:
        assert export(capsys, run_id, "-t", served.file, "-o", tmp_path / name).code == 0
        return (tmp_path / name / "README.md").read_text().partition("\n\n")[2].partition("\n\n")[0]

    assert sentence("waiting").endswith(" It passed the gate and awaits approval.")
    reject = ["reject", run_id, "-t", served.file, "--reason", "too slow", "--author", "ann"]
    assert retrain(reject, capsys).code == 0
    assert sentence("rejected").endswith(" It was not promoted: rejected by ann: too slow.")
    assert retrain(["promote", run_id, "-t", served.file, "--yes"], capsys).code == 0
    assert sentence("promoted").endswith(" It was promoted to champion by hand.")


def test_card_has_an_empty_line_around_each_heading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = make_served(tmp_path, 0, 1)
    served.workspace.land(2, seed=2)
    for run_id in (served.workspace.store.ledger.read()[-1].run_id, served.retrain().run_id):
        assert export(capsys, run_id, "-t", served.file, "-o", tmp_path / run_id).code == 0
        body = (tmp_path / run_id / "README.md").read_text().split("---\n", 2)[2]
        headings = ["## Data", "## Training and savings", "## Accuracy by class", "## Files"]
        assert re.findall(r"(?<=\n\n)##.*(?=\n\n)", body) == headings
        assert "  " not in body
        assert " \n" not in body


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "there"], "there: already exists: remove it or choose another folder"),
        (["scratch-1", "-o", "new"], "there is no run scratch-1"),
        (["-o", "there/file/new"], "cannot be written: Not a directory"),
    ],
)
def test_export_with_wrong_input_writes_nothing(
    served: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("there/file").write_text("")
    ran = export(capsys, *arguments, "-t", served.file)
    assert ran.code == 2
    assert message in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Limit the bytes that this process can write to a file, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_export_to_a_full_disk_gives_one_message(
    served: Served, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new"
    with file_limit(20_000):
        ran = export(capfd, "-t", served.file, "-o", output)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"retrain: --output {output}: cannot be written: File too large\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_program_on_a_full_disk_raises_an_os_error(kind: Format, tmp_path: Path) -> None:
    with file_limit(1000), pytest.raises(OSError, match="File too large"):
        write_program(kind, nn.Sequential(nn.Flatten(), nn.Linear(192, 10)).eval(), (3, 8, 8), tmp_path)


def test_missing_extra_gives_its_install_command(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    ran = export(capsys, "-t", served.file, "-o", tmp_path / "new", "--onnx")
    assert ran.code == 2
    assert "Exporting to ONNX needs onnx: pip install 'retrain-classifiers[onnx]'" in ran.err


def test_program_needs_test_images_to_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = make_served(tmp_path, 0, 1)
    (drop,) = served.workspace.store.drops.all()
    table = read_or_make_table(drop, served.workspace.store)
    keys = [table.keys[row] for row in np.flatnonzero(table.use == USES.index("test"))]
    erase = ["drop", "erase", "-t", served.file, "--drop", drop.id, "--yes"]
    assert retrain([*erase, *(word for key in keys for word in ("--key", key))], capsys).code == 0
    ran = export(capsys, "-t", served.file, "-o", tmp_path / "new", "--torch-export")
    assert ran.code == 2
    assert "were erased, so no program can be compared with the network" in ran.err
    assert not (tmp_path / "new").exists()
    assert export(capsys, "-t", served.file, "-o", tmp_path / "new").code == 0


def test_program_with_other_labels_is_refused(served: Served) -> None:
    model = load_champion(served.file)
    images = torch.randint(256, (10, 3, 8, 8), dtype=torch.uint8)
    samples = Samples.of(images, torch.zeros(10, dtype=torch.int64), [10])
    with pytest.raises(ModelError, match="gives 10 of 10 test images another label"):
        compare_program(Program("onnx", lambda inputs: -model.predict(inputs).logits), model, samples)
    same = compare_program(Program("onnx", lambda inputs: model.predict(inputs).logits + 0.25), model, samples)
    assert (same.other_labels, same.images, same.largest_difference) == (0, 10, pytest.approx(0.25, abs=1e-6))


class Branching(nn.Module):
    """A network that cannot be traced, because its operations depend on the values of the images."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))


def test_network_that_cannot_be_traced_gives_one_message(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"torch\.export cannot trace the network: "):
        write_program("torch", Branching().eval(), (3, 8, 8), tmp_path)


def test_class_names_are_escaped_in_the_card() -> None:
    assert _cell("a|b\n# <c>") == r"a\|b \# \<c\>"
