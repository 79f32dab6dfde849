"""`retrain predict`: its inputs, its outputs, and its errors for unreadable images."""

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet
from support.served import Served, make_served
from support.terminal import Ran, at_terminal, retrain

from retrain.errors import DropError, UserError
from retrain.inference.tables import Row, read_rows
from retrain.utils import extras


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return make_served(tmp_path_factory.mktemp("predict"), 0, 1, 2)


@pytest.fixture(scope="module")
def images(served: Served) -> Path:
    return served.images(0, 1, 2)


def predict(served: Served, output: pytest.CaptureFixture[str], *arguments: object) -> Ran:
    return retrain(["predict", *map(str, arguments), "--task", served.file], output)


def test_folder_is_predicted_as_csv(served: Served, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = predict(served, capsys, images)
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    assert (ran.code, len(rows)) == (0, 9)
    assert list(rows[0]) == ["image", "class", "probability", "error"]
    assert sum(row["class"] == Path(row["image"]).parent.name for row in rows) >= 8
    assert all(1 / 3 < float(row["probability"]) <= 1 for row in rows)


def test_terminal_shows_the_number_of_predicted_images(served: Served, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "p.csv"
    lines = at_terminal(80, "predict", str(images), "--task", served.file, "-o", str(output))
    assert len(output.read_text().splitlines()) == 10
    assert any(line.split()[-3:-1] == ["9/?", "images"] for line in lines), lines


def test_formats_contain_the_same_predictions(
    served: Served, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("p.csv", "p.jsonl", "p.parquet"):
        ran = predict(served, capsys, images, "--top", 9, "--batch-size", 4, "-o", tmp_path / name)
        assert (ran.code, ran.out) == (0, "")
    rows = parquet.read_table(tmp_path / "p.parquet").to_pylist()
    assert list(rows[0])[:5] == ["image", "class", "probability", "class_2", "probability_2"]
    assert sum(rows[0][name] for name in ("probability", "probability_2", "probability_3")) == pytest.approx(1)
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    with (tmp_path / "p.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == [row["class"] for row in rows]
    assert [line["top"][1]["class"] for line in lines] == [row["class_2"] for row in rows]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.csv", "p.jsonl", "p.parquet"]


def test_path_that_is_not_utf8_is_written_in_every_format(
    served: Served, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard input is strict, as Python opens it in the locale en_US.UTF-8."""
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    shutil.copy(next(images.rglob("*.png")), path)
    for name in ("p.csv", "p.jsonl", "p.parquet"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path + b"\n"), "utf-8", "strict"))
        ran = predict(served, capsys, "-", "-o", tmp_path / name)
        assert (ran.code, ran.err) == (0, "")
    assert (tmp_path / "p.csv").read_bytes().splitlines()[1].startswith(path)
    assert os.fsencode(json.loads((tmp_path / "p.jsonl").read_bytes())["image"]) == path
    assert parquet.read_table(tmp_path / "p.parquet")["image"].to_pylist() == [f"{tmp_path}/caf\\udce9.png"]


def test_images_are_read_from_tables_and_standard_input(
    served: Served, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(path) for path in sorted(images.rglob("*.png"))][:4]
    (tmp_path / "t.CSV").write_text("path,size\n" + "".join(f"{path},8\n" for path in paths))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"path": path}) + "\n" for path in paths))
    parquet.write_table(pyarrow.table({"path": paths}), tmp_path / "t.Parquet")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(paths)))
    tables = [tmp_path / name for name in ("t.CSV", "t.jsonl", "t.Parquet")]
    outputs = [predict(served, capsys, source, "--image-column", "path").out for source in ("-", *tables)]
    assert set(outputs) == {outputs[0]}
    assert [row["image"] for row in csv.DictReader(io.StringIO(outputs[0]))] == paths


def test_unreadable_images_become_rows_and_exit_code_1(
    served: Served, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_text("no image")
    ran = predict(served, capsys, tmp_path / "a.png", images, "--format", "jsonl")
    first, *others = (json.loads(line) for line in ran.out.splitlines())
    assert ran.code == 1
    assert (
        "1 of 10 images could not be read. The column `error` has the cause for each of them. The first is " in ran.err
    )
    assert first["error"].startswith("cannot be decoded: ")
    assert str(tmp_path) not in first["error"]
    assert all("class" in row for row in others)


def test_evaluation_names_the_first_unreadable_image(
    served: Served, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "class-0" / "a.png"
    file.parent.mkdir()
    file.write_text("no image")
    ran = predict(served, capsys, file, images, "--evaluate")
    assert ran.code == 1
    assert "of 9 images classified correctly" in ran.out
    assert f"Pass --output FILE to list all of them. The first is {file}: cannot be decoded: not an image" in ran.err
    ran = predict(served, capsys, file, "--evaluate")
    assert (ran.code, ran.out) == (1, "")
    assert "1 of 1 images could not be read" in ran.err


def test_path_with_a_zero_byte_is_a_row_with_an_error(
    served: Served, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(path) for path in sorted(images.rglob("*.png"))][:2]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\0".join(paths)))  # as `find -print0` writes them
    ran = predict(served, capsys, "-", "--format", "jsonl")
    assert ran.code == 1
    assert "is not a path: it contains a zero byte" in json.loads(ran.out)["error"]


def test_evaluation_needs_at_least_one_class_of_the_model(
    served: Served, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(images / "class-0", tmp_path / "inbox")
    ran = predict(served, capsys, tmp_path / "inbox", "--evaluate")
    assert (ran.code, ran.out) == (2, "")
    assert "none of the true classes is a class of the model: inbox. Its classes are class-0, class-1" in ran.err
    ran = predict(served, capsys, tmp_path / "inbox", images, "--evaluate")
    assert ran.code == 0, "images of a class that the model does not have count as wrong"
    assert "of 12 images classified correctly" in ran.out
    assert ran.out.endswith("classes that the model does not have (all their images count as wrong): inbox\n")


@pytest.mark.parametrize("content", ["", "image\n"])
def test_table_without_rows_is_refused(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (tmp_path / "t.csv").write_text(content)
    ran = predict(served, capsys, tmp_path / "t.csv", "-o", tmp_path / "p.csv")
    assert (ran.code, ran.err) == (2, f"retrain: {tmp_path}/t.csv: no image is listed\n")
    assert not (tmp_path / "p.csv").exists()


def test_true_class_of_a_single_file_is_its_folders_name(
    served: Served, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(images / "class-1")
    monkeypatch.setattr(sys, "stdin", io.StringIO("../class-2/0.png\n"))
    ran = predict(served, capsys, images / "class-0" / "0.png", "1.png", "-", "--evaluate")
    assert (ran.code, ran.err) == (0, "")
    counts = [line.split()[:2] for line in ran.out.partition("\n\n")[0].splitlines() if line.startswith("class-")]
    assert sorted(counts) == [["class-0", "1"], ["class-1", "1"], ["class-2", "1"]]


def test_evaluation_names_classes_as_drops_do(
    served: Served, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(images / "class-0", tmp_path / " class-0 ")
    shutil.copytree(images / "class-1", tmp_path / "one")
    ran = predict(served, capsys, tmp_path, "--evaluate", "--set", "data.aliases={one: class-1}")
    assert ran.code == 0
    table, *_ = ran.out.partition("\n\n")
    assert sorted(line.split()[:2] for line in table.splitlines() if line.startswith("class-")) == [
        ["class-0", "3"],
        ["class-1", "3"],
        ["class-2", "0"],
    ]


def test_labels_in_tables_are_read_as_drops_read_them(tmp_path: Path) -> None:
    """A column of whole numbers with missing values contains 3.0 for class 3."""
    table = pyarrow.table({"image": ["a.png", "b.png"], "label": [3.0, float("nan")]})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert list(read_rows([str(tmp_path / "t.parquet")], labelled=True)) == [
        Row("a.png", "3", str(tmp_path / "t.parquet")),
        Row("b.png", None, str(tmp_path / "t.parquet")),
    ]


def test_table_with_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    offsets, text = pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"\xff\xfe")
    images = pyarrow.StringArray.from_buffers(1, offsets, text)
    parquet.write_table(pyarrow.table({"image": images}), tmp_path / "t.parquet")
    with pytest.raises(DropError, match=r"t\.parquet: cannot be read: 'utf-8' codec"):
        list(read_rows([str(tmp_path / "t.parquet")]))


def test_error_of_a_table_names_the_folder_that_has_the_image(
    served: Served, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = images / "t.csv"
    table.write_text("image\nclass-0/0.png\nnowhere.png\na\0b\n")
    monkeypatch.chdir(tmp_path)
    ran = predict(served, capsys, table, "--format", "jsonl")
    first, second, third = (json.loads(line)["error"] for line in ran.out.splitlines())
    assert first == (
        "cannot be read: No such file or directory. Paths in a table are relative to the current folder; "
        f"{images}/class-0/0.png exists: run the command in {images}"
    )
    assert (ran.code, second) == (1, "cannot be read: No such file or directory")
    assert third.endswith("it contains a zero byte")
    monkeypatch.chdir(images)
    assert "class" in json.loads(predict(served, capsys, table, "--format", "jsonl").out.splitlines()[0])
    table.unlink()


def test_error_gives_the_line_of_a_row_without_a_path(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,size\na.png,8\n,8\n")
    with pytest.raises(UserError, match=r"t\.csv: line 3: no path in column 'image'"):
        list(read_rows([str(tmp_path / "t.csv")]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["s3://bucket/a.png"], "s3://bucket/a.png: not a path on this machine: download it first"),
        (["empty"], "empty: no images in it"),
        (
            ["t.csv"],
            "line 2 has no column 'image'; its columns are path. Pass the column of the paths with --image-column",
        ),
        (
            ["t.csv", "--image-column", "path", "--evaluate", "--label-column", "kind"],
            "line 2 has no column 'kind'; its columns are path. Pass the column of the true classes "
            "with --label-column",
        ),
        (["t.jsonl"], "t.jsonl: line 1 is not JSON"),
        (["t.parquet"], "t.parquet: cannot be read"),
        (["empty", "--output", "x.txt"], "--output x.txt: must end in .csv, .jsonl or .parquet"),
        (["t.csv", "--image-column", "path", "--output", "no/x.csv"], "--output no/x.csv: cannot be written"),
        (["t.csv", "--output", "a.csv", "--format", "jsonl"], "a.csv names another format: leave out --format"),
        (["t.csv", "--evaluate", "--format", "jsonl"], "to also write the predictions, pass --output FILE.jsonl"),
        (["empty", "--run", "scratch-1"], "there is no run scratch-1"),
    ],
)
def test_predict_with_wrong_input_gives_one_message(
    served: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("t.csv").write_text("path\nx.png\n")
    Path("t.jsonl").write_text("x.png\n")
    Path("t.parquet").write_text("x.png\n")
    ran = predict(served, capsys, *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
    assert "Traceback" not in ran.err


def test_predict_prints_nothing_if_one_folder_is_empty(
    served: Served, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    ran = predict(served, capsys, images, tmp_path / "empty")
    assert (ran.code, ran.out) == (2, "")


@pytest.mark.parametrize("denied", ["inbox", "inbox/b"])
@pytest.mark.parametrize("mode", [0o000, 0o644])
def test_folder_without_permission_is_refused(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, denied: str, mode: int
) -> None:
    """Without permission x, the names in a folder can be listed, but not opened."""
    for name in ("a", "b"):
        shutil.copytree(images / "class-0", tmp_path / "inbox" / name)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    user = os.geteuid()
    Path(denied).chmod(mode)
    if user == 0:  # root may read every folder
        os.seteuid(65534)
    try:
        with pytest.raises(UserError, match=f"^{denied}.*: cannot be read: Permission denied"):
            read_rows(["inbox"])
        with pytest.raises(UserError, match="no such file or folder, or no permission to read it"):
            read_rows([f"{denied}/0.png"])
    finally:
        os.seteuid(user)
        Path(denied).chmod(0o755)


def test_missing_extra_gives_its_install_command(
    served: Served, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    ran = predict(served, capsys, images, "-o", "p.parquet")
    assert ran.code == 2
    assert "Writing Parquet needs pyarrow: pip install 'retrain-classifiers[tables]'" in ran.err
