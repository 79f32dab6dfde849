"""Tables next to images give labels and splits, by pack and by upload. Errors name the line, row or column."""

import errno
import io
import json
import os
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet
from support.ingest_routes import IngestRoute, open_route
from support.pictures import png

from retrain.config import SPLITS
from retrain.config.task import Data
from retrain.data.source import survey_source
from retrain.data.tables import read_table
from retrain.errors import DropError


@pytest.fixture(params=["pack", "upload"])
def local_route(request: pytest.FixtureRequest, tmp_path: Path) -> IngestRoute:
    """Return each route that needs no server. These routes are fast enough for folders with many files."""
    return open_route(request.param, tmp_path)


def test_table_next_to_images_gives_labels_and_splits(local_route: IngestRoute) -> None:
    rows = [
        f"images/{number}.png,{('cat', 'dog')[number % 2]},{'test' if number < 4 else 'train'}" for number in range(24)
    ]
    files = {f"images/{number}.png": png(number) for number in range(24)}
    drop = local_route.ingest(
        {**files, "metadata.csv": "\ufefffile_name,label,split\r\n".encode() + "\r\n".join(rows).encode()}
    )
    assert drop.samples("test") == 4
    assert set(local_route.labels(drop).values()) == {"cat", "dog"}
    assert drop.reading is not None
    assert (drop.reading.labels_from, drop.reading.not_samples) == ("csv", {"metadata.csv (labels)": 1})


def test_imagefolder_with_metadata_in_each_split_is_read(local_route: IngestRoute) -> None:
    files: dict[str, bytes] = {}
    for split, count in (("train", 20), ("validation", 3), ("test", 5)):
        rows = [json.dumps({"file_name": f"{number}.png", "label": number % 2}) for number in range(count)]
        files |= {f"{split}/{number}.png": png(number + 100 * count) for number in range(count)}
        files[f"{split}/metadata.jsonl"] = "\n".join(rows).encode()
    drop = local_route.ingest(files)
    assert (drop.classes, drop.samples("train"), drop.samples("val"), drop.samples("test")) == (("0", "1"), 20, 3, 5)


def test_table_names_an_image_in_any_unicode_form(local_route: IngestRoute, tmp_path: Path) -> None:
    """A zip from macOS has \u00e9 as two characters, and most editors write it as one."""
    two, one = "cafe\u0301-{}.png", "caf\u00e9-{}.png"
    files = {two.format(number): png(number) for number in range(24)}
    rows = "\n".join(["file_name,label", *(f"{one.format(number)},cat" for number in range(24))]).encode()
    drop = local_route.ingest({**files, "metadata.csv": rows})
    assert sum(map(drop.samples, SPLITS)) == 24
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / two.format(0)).write_bytes(png(0))
    (tmp_path / "labels.csv").write_text(f"path,label\ntwo/{one.format(0)},cat\n")
    assert survey_source(tmp_path / "labels.csv", Data()).samples[0].entry.read() == png(0)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ("gone.png,cat", r"line 26: there is no image 'gone\.png'"),
        ("0.png,dog", r"line 26: '0\.png' is named a second time"),
        ("/tmp/0.png,cat", r"line 26: '/tmp/0\.png' is not allowed: write the image's path relative to the table"),
        ("../0.png,cat", r"line 26: '\.\./0\.png' is not allowed"),
        ("https://a.org/0.png,cat", r"line 26: 'https://a\.org/0\.png' is not allowed"),
    ],
)
def test_table_row_without_a_distinct_image_is_refused(local_route: IngestRoute, row: str, named: str) -> None:
    rows = "\n".join(["file_name,label", *(f"{number}.png,cat" for number in range(24)), row])
    with pytest.raises(DropError, match=named):
        local_route.ingest({**{f"{number}.png": png(number) for number in range(24)}, "metadata.csv": rows.encode()})


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ("file_name,label\n0.png,cat, black\n", "line 2 has more values than there are columns; put quotation marks"),
        ("file_name,label,label\n0.png,cat,dog\n", "two columns are called 'label'"),
        (
            "path,label,split\n0.png,cat,train\n1.png,cat,\n",
            r"the row of 1\.png has no split, but the row of 0\.png has one: fill in the column split in all rows",
        ),
        ("key,class,reason\ncat/0,dog,blurred\n", "lists corrections .* pass it to `retrain drop amend`"),
    ],
)
def test_table_with_an_ambiguous_label_is_refused(local_route: IngestRoute, table: str, named: str) -> None:
    with pytest.raises(DropError, match=named):
        local_route.ingest({"0.png": png(0), "1.png": png(1), "metadata.csv": table.encode()})


def test_labels_of_other_types_become_text_or_are_refused(local_route: IngestRoute) -> None:
    labels = [1, 1.0, "1"] * 8
    rows = [json.dumps({"file_name": f"{number}.png", "label": label}) for number, label in enumerate(labels)]
    files = {f"{number}.png": png(number) for number in range(24)}
    assert local_route.ingest({**files, "metadata.jsonl": "\n".join(rows).encode()}).classes == ("1",)
    for odd in ("[1]", "0.5", '{"name": "cat"}'):
        row = f'{{"file_name": "0.png", "label": {odd}}}'
        with pytest.raises(DropError, match=r"metadata\.jsonl: line 1: label is .*; expected text or a whole number"):
            local_route.ingest({"0.png": png(0), "metadata.jsonl": row.encode()})


def test_line_separators_within_values_do_not_end_a_row(local_route: IngestRoute) -> None:
    rows = [json.dumps({"file_name": f"{n}.png", "label": "a\u2028b"}, ensure_ascii=False) for n in range(24)]
    files = {f"{number}.png": png(number) for number in range(24)}
    assert local_route.ingest({**files, "metadata.jsonl": "\n".join(rows).encode()}).classes == ("a\u2028b",)


def test_image_without_a_table_row_is_refused(local_route: IngestRoute) -> None:
    rows = "\n".join(["file_name,label", *(f"{number}.png,cat" for number in range(24))])
    with pytest.raises(DropError, match=r"24\.png: no table of labels has a row for it"):
        local_route.ingest({**{f"{number}.png": png(number) for number in range(25)}, "metadata.csv": rows.encode()})


@pytest.mark.parametrize("table", ["", "file_name,label\n"])
def test_table_without_rows_is_refused(local_route: IngestRoute, table: str) -> None:
    with pytest.raises(DropError, match=r"metadata\.csv: has no row; expected a row for each image"):
        local_route.ingest({"0.png": png(0), "metadata.csv": table.encode()})


def test_table_with_a_web_address_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label\nhttps://a.org/0.png,cat\n")
    with pytest.raises(DropError, match=r"line 2: 'https://a\.org/0\.png' is not allowed: write a file's path, or an"):
        survey_source(tmp_path / "labels.csv", Data())


def test_error_in_a_parquet_table_names_the_row() -> None:
    table = io.BytesIO()
    parquet.write_table(pyarrow.table({"path": ["0.png", "1.png"], "label": [1.0, 0.5]}), table)
    with pytest.raises(DropError, match=r"t\.parquet: row 2: label is 0\.5"):
        list(read_table(table.getvalue(), "parquet", "t.parquet"))


def test_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    name = f"{'x' * 300}.png"
    (tmp_path / "labels.csv").write_text(f"path,label\n{name},cat\n")
    with pytest.raises(DropError, match=f"line 2: '{name}' cannot be read: File name too long"):
        survey_source(tmp_path / "labels.csv", Data())
    with pytest.raises(DropError, match=f"{name}: cannot be read: File name too long"):
        survey_source(tmp_path / name, Data())


def test_table_without_permission_to_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    (tmp_path / "labels.csv").write_text("path,label\n1.png,cat\n")
    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read every file
    with pytest.raises(DropError, match=r"labels\.csv: cannot be read: Permission denied"):
        survey_source(tmp_path / "labels.csv", Data())
