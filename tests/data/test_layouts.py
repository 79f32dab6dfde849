"""In every supported layout, packed or uploaded, each file is a sample, is named in an error, or is counted."""

import gzip
import io
import json
import zipfile
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import pytest
from PIL import Image
from support.ingest_routes import IngestRoute, open_route, tree, zipped
from support.pictures import encoded, picture, png
from support.uploads import shard

from retrain.errors import DropError
from retrain.records import Drop


@pytest.fixture(params=["pack", "s3"])
def route(request: pytest.FixtureRequest, tmp_path: Path) -> IngestRoute:
    """Return each route: a pack of a local source, and an upload to S3."""
    if request.param == "s3":
        return open_route("s3", tmp_path, request.getfixturevalue("bucket"), request.getfixturevalue("s3"))
    return open_route("pack", tmp_path)


@pytest.fixture(params=["pack", "upload"])
def local_route(request: pytest.FixtureRequest, tmp_path: Path) -> IngestRoute:
    """Return each route that needs no server. These routes are fast enough for folders with many files."""
    return open_route(request.param, tmp_path)


def total(drop: Drop) -> int:
    return sum(drop.samples(split) for split in drop.counts)


def tar(files: Mapping[str, bytes]) -> bytes:
    return shard(files.items())


def sidecars(count: int = 24, stem: str = "{}", first: int = 0, **others: bytes) -> dict[str, bytes]:
    """Return images with a `.cls` file next to each. Cats and dogs alternate. `first` selects other images."""
    files: dict[str, bytes] = {}
    for number in range(count):
        name = stem.format(f"{number:04d}")
        files |= {f"{name}.png": png(first + number), f"{name}.cls": (b"cat", b"dog")[number % 2]}
        files |= {f"{name}.{extension}": data for extension, data in others.items()}
    return files


# --- tars next to other files


def test_tar_next_to_folders_is_read_with_them(route: IngestRoute) -> None:
    drop = route.ingest(
        {"train.tar": tar(tree("cat", "dog")), **{f"test/fox/{number}.png": png(1000 + number) for number in range(12)}}
    )
    assert drop.classes == ("cat", "dog", "fox")
    assert drop.samples("test") == 12
    assert drop.samples("train") + drop.samples("val") == 24


def test_tar_without_a_split_name_next_to_folders_is_refused(route: IngestRoute) -> None:
    with pytest.raises(DropError, match=r"more\.tar: the archive's name does not state its split"):
        route.ingest({**tree("cat", "dog"), "more.tar": tar(tree("fox"))})


def test_tars_in_folders_of_splits_are_read(route: IngestRoute) -> None:
    drop = route.ingest(
        {
            "train/0.tar": tar(sidecars(12)),
            "train/1.tar": tar(sidecars(12, "more-{}", first=100)),
            "test/0.tar": tar(sidecars(4, first=200)),
        }
    )
    assert drop.samples("test") == 4
    assert total(drop) == 28


# --- shards


def test_dots_in_file_stems_do_not_change_labels(route: IngestRoute) -> None:
    drop = route.ingest({"train.tar": tar(sidecars(stem="IMG.2024.{}"))})
    assert route.labels(drop) == {f"IMG%2E2024%2E{number:04d}": ("cat", "dog")[number % 2] for number in range(24)}


def test_gif_tiff_jfif_and_avif_images_are_samples(route: IngestRoute) -> None:
    image = Image.fromarray(picture(1000))
    files = {f"gif.{kind}": encoded(image, form) for kind, form in [("gif", "GIF")]}
    files |= {
        "tiff.tiff": encoded(Image.fromarray(picture(1001)), "TIFF"),
        "jfif.jfif": encoded(image, "JPEG"),
        "avif.avif": encoded(image, "AVIF"),
    }
    labels = {f"{name.partition('.')[0]}.cls": b"odd" for name in files}
    drop = route.ingest({"train.tar": tar({**sidecars(), **files, **labels})})
    assert total(drop) == 28
    assert drop.left_out == ()


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"photo.xcf": b"gimp", "photo.cls": b"cat"}, ["train.tar/photo.cls", "train.tar/photo.xcf"]),
        ({"9.gif": b"torn", "9.cls": b"cat"}, ["9"]),
        ({"notes.md": b"# hello"}, ["train.tar/notes.md"]),
    ],
)
def test_error_names_the_shard_member_that_is_not_a_sample(
    route: IngestRoute, extra: dict[str, bytes], named: list[str]
) -> None:
    files = {"train.tar": tar({**sidecars(), **extra}), "test.tar": tar(sidecars(2, "other-{}", first=100))}
    with pytest.raises(DropError, match=named[0].removeprefix("train.tar/")):
        route.ingest(files)
    drop = route.ingest(files, max_bad_share=0.2)
    assert sorted(bad.key for bad in drop.left_out) == named
    assert total(drop) == 26


# --- labels


def test_label_rule_is_in_the_manifest(local_route: IngestRoute) -> None:
    drop = local_route.ingest(tree("cat", "dog"))
    assert drop.reading is not None
    assert drop.reading.labels_from == "folder"


@pytest.mark.parametrize(
    "files", [tree("train", "val"), tree("cat", "train"), {"train.tar": tar(tree("train", "dog"))}]
)
def test_folder_named_like_a_split_is_refused_as_a_class(local_route: IngestRoute, files: dict[str, bytes]) -> None:
    with pytest.raises(DropError, match=r"of class '(train|val)', but this is a split's name.*--label-from folder"):
        local_route.ingest(files)


@pytest.mark.parametrize(
    ("train", "val", "test"), [("Train", "VAL", "Test"), ("training", "dev", "eval"), ("TRAINING", "Valid", "testing")]
)
def test_split_names_have_synonyms_in_any_case(local_route: IngestRoute, train: str, val: str, test: str) -> None:
    files = {f"{train}/{name}": data for name, data in sidecars(9).items()}
    files |= {f"{val}/{name}": data for name, data in sidecars(5, first=100).items()}
    drop = local_route.ingest({**files, f"{test}.TAR": tar(sidecars(4, first=200))})
    assert [drop.samples(split) for split in ("train", "val", "test")] == [9, 5, 4]


@pytest.mark.parametrize("name", ["Train", "TEST", "validation", "Dev"])
def test_split_name_in_any_case_is_refused_as_a_class(local_route: IngestRoute, name: str) -> None:
    with pytest.raises(DropError, match=f"of class '{name}', but this is a split's name"):
        local_route.ingest(tree("cat", name))


def test_class_in_a_split_folder_may_have_a_splits_name(local_route: IngestRoute) -> None:
    files = {
        f"{split}/{name}": png(n) for n, (split, name) in enumerate(product(("train", "test"), tree("car", "train")))
    }
    assert local_route.ingest(files).classes == ("car", "train")


def test_class_named_like_a_split_is_accepted_if_requested(local_route: IngestRoute) -> None:
    assert local_route.ingest(tree("car", "train"), label_from="folder").classes == ("car", "train")


@pytest.mark.parametrize(
    "files", [{f"batch1/{name}": data for name, data in tree("cat", "dog").items()}, tree("cat/tabby", "dog/pug")]
)
def test_nested_folders_are_refused_as_classes(local_route: IngestRoute, files: dict[str, bytes]) -> None:
    with pytest.raises(DropError, match="not an image of a class; expected class/name"):
        local_route.ingest(files)


def test_single_class_folder_is_refused_in_one_sentence(local_route: IngestRoute) -> None:
    with pytest.raises(
        DropError, match=r"12 images outside of folders named after classes; pass the folder"
    ) as refused:
        local_route.ingest({Path(name).name: data for name, data in tree("cat").items()})
    assert ".png" not in str(refused.value)


def with_json(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the same images, each with a JSON file whose label is not the folder's name."""
    labels = {
        name.replace(".png", ".json"): json.dumps({"info": {"label": f"of {name[:3]}"}, "id": 7}).encode()
        for name in files
    }
    return {**files, **labels}


@pytest.mark.parametrize("packed", [False, True])
def test_json_next_to_images_requires_a_chosen_label_rule(local_route: IngestRoute, packed: bool) -> None:
    files = with_json(tree("cat", "dog"))
    given = {"train.tar": tar(files)} if packed else files
    expected = r"may contain a label, and the folders may be labels.*json:FIELD \(.* has info, id\)"
    with pytest.raises(DropError, match=expected):
        local_route.ingest(given)
    by_field = local_route.ingest(given, label_from="json:info.label")
    assert by_field.classes == ("of cat", "of dog")
    assert by_field.reading is not None
    assert (by_field.reading.labels_from, by_field.reading.not_samples) == ("json:info.label", {".json (labels)": 24})


def test_folder_layout_counts_files_next_to_images(local_route: IngestRoute) -> None:
    drop = local_route.ingest(with_json(tree("cat", "dog")), label_from="folder")
    assert drop.classes == ("cat", "dog")
    assert drop.reading is not None
    assert drop.reading.not_samples == {".json (next to images)": 24}


def test_image_without_a_label_is_refused_if_others_have_one(route: IngestRoute) -> None:
    with pytest.raises(DropError, match=r"cat/1\.png: no label: there is no 1\.cls"):
        route.ingest({"train.tar": tar({**sidecars(), "cat/1.png": png(99)})})


def test_masks_next_to_images_are_counted_but_not_samples(route: IngestRoute) -> None:
    drop = route.ingest({"train.tar": tar(sidecars(**{"mask.png": png(1000), "json": b"{}"}))})
    assert total(drop) == 24
    assert drop.reading is not None
    assert drop.reading.not_samples == {
        ".cls (labels)": 24,
        ".json (next to images)": 24,
        ".mask.png (next to images)": 24,
    }


# --- stray files, and folders that are not classes

STRAY = {
    "cat/._0.png": b"AppleDouble",
    ".DS_Store": b"",
    "__MACOSX/cat/._0.png": b"AppleDouble",
    "cat/thumbs.DB": b"",
    "dog/.gitkeep": b"",
    ".nomedia": b"",
    "dog/Icon\r": b"",
    "@eaDir/cat/0.png": png(1),
    "lost+found/0.png": png(2),
    "cat_$folder$": b"",
    "cat/.ipynb_checkpoints/0-checkpoint.png": png(3),
    ".thumbnails/0.png": png(4),
}
COUNTED = {
    "._*": 1,
    ".DS_Store": 1,
    "@eaDir": 1,
    "Icon": 1,
    "Thumbs.db": 1,
    "__MACOSX": 1,
    "folder markers": 1,
    "hidden": 4,
    "lost+found": 1,
}


@pytest.mark.parametrize("form", ["folder", "tar", "zip", "tgz", "shard"])
def test_stray_files_are_ignored_and_counted_in_every_layout(route: IngestRoute, form: str) -> None:
    files = {**(sidecars() if form == "shard" else tree("cat", "dog")), **STRAY}
    given = {
        "folder": lambda: files,
        "tar": lambda: {"train.tar": tar(files)},
        "shard": lambda: {"train.tar": tar(files)},
        "zip": lambda: {"train.zip": zipped(files)},
        "tgz": lambda: {"train.tar.gz": gzip.compress(tar(files))},
    }[form]()
    drop = route.ingest(given)
    assert drop.classes == ("cat", "dog")
    assert total(drop) == 24
    assert drop.reading is not None
    labels = {".cls (labels)": 24} if form == "shard" else {}
    assert drop.reading.not_samples == dict(sorted({**COUNTED, **labels}.items()))


# --- archives


@pytest.mark.parametrize("name", ["pets.zip", "pets.tar.gz", "pets.tgz", "pets.tar"])
def test_archive_of_a_folder_is_read_as_the_folder(route: IngestRoute, name: str) -> None:
    files = {f"pets/{path}": data for path, data in tree("cat", "dog").items()}
    archive = zipped(files) if name.endswith("zip") else tar(files)
    drop = route.ingest({name: archive if name.endswith(("zip", ".tar")) else gzip.compress(archive)})
    assert (drop.classes, total(drop)) == (("cat", "dog"), 24)


class UnflaggedInfo(zipfile.ZipInfo):
    """A zip member whose name is in UTF-8 without the flag for UTF-8. Info-ZIP and macOS write such members."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.filename.encode(), self.flag_bits


def test_zip_may_have_names_in_utf8_without_the_flag(route: IngestRoute) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in tree("\u00e9toile", "\u5b57\u6bcd").items():
            archive.writestr(UnflaggedInfo(name), data)
        archive.writestr("\u00e9toile/\u00fc.png", png(5000))
    assert route.ingest({"train.zip": buffer.getvalue()}).classes == ("\u00e9toile", "\u5b57\u6bcd")


@pytest.mark.parametrize(
    ("archive", "why"),
    [
        (lambda: zipped(tree("cat"))[:-30], "not a complete zip"),
        (lambda: zipped({"../cat/1.png": png(1)}), "the path is absolute or contains"),
        (
            lambda: zipped({"QQ.png": png(1)}).replace(b"QQ.png", b"\0Q.png"),
            "a file in it has no name: pack the files again",
        ),
        (lambda: b"PK nonsense", "not a complete zip"),
        (lambda: b"no zip at all", "neither a zip nor a gzipped tar: pack the files again"),
    ],
)
def test_damaged_or_hostile_zip_is_refused(route: IngestRoute, archive: object, why: str) -> None:
    assert callable(archive)
    with pytest.raises(DropError, match=rf"train\.zip: .*{why}"):
        route.ingest({"train.zip": archive()})


def test_gzip_bomb_is_refused(route: IngestRoute, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrain.data.archives.LEAST_LIMIT", 1000)
    with pytest.raises(DropError, match=r"train\.tgz: unpacks to more than .* bytes: remove files"):
        route.ingest({"train.tgz": gzip.compress(bytes(5_000_000))})


def test_error_names_the_damaged_zip_member(route: IngestRoute) -> None:
    data = bytearray(zipped(tree("cat", "dog")))
    data[data.index(png(3)) + 40] ^= 255
    with pytest.raises(DropError, match=r"cat/3\.png: Bad CRC-32"):
        route.ingest({"train.zip": bytes(data)})


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_member_of_any_compression_is_named(tmp_path: Path, compression: int) -> None:
    data = bytearray(zipped(tree("cat", "dog"), compression))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        damaged = archive.getinfo("cat/3.png")
    start = damaged.header_offset + zipfile.sizeFileHeader + len(damaged.filename)
    for place in range(start + 9, start + damaged.compress_size):  # after the header of LZMA's data
        data[place] ^= 255
    with pytest.raises(DropError, match=r"train\.zip: cat/3\.png: [A-Z]\w+"):
        open_route("pack", tmp_path).ingest({"train.zip": bytes(data)})


# --- keys of unusual form


@pytest.mark.parametrize("name", ["cat//1.png", "cat/./1.png", "/cat/1.png"])
def test_object_with_an_invalid_path_as_key_is_reported(tmp_path: Path, bucket: str, s3: str, name: str) -> None:
    route = open_route("s3", tmp_path, bucket, s3)
    with pytest.raises(DropError, match="is not a valid path"):
        route.ingest({**tree("cat", "dog"), name: png(99)})
    drop = route.ingest({**tree("cat", "dog"), name: png(99)}, max_bad_share=0.1)
    assert len(drop.left_out) == 1


def test_folder_markers_in_s3_are_counted(tmp_path: Path, bucket: str, s3: str) -> None:
    drop = open_route("s3", tmp_path, bucket, s3).ingest({**tree("cat", "dog"), "cat/": b"", "dog/": b""})
    assert drop.reading is not None
    assert (total(drop), drop.reading.not_samples) == (24, {"folder markers": 2})


# --- names of classes


@pytest.mark.parametrize("form", ["folder", "shard"])
def test_invisible_characters_make_no_new_class(local_route: IngestRoute, form: str) -> None:
    spellings = ("ice bear", "\ufeffice bear", "ice\u00a0bear", "ice\u200b bear", "ice bear ")
    if form == "folder":
        drop = local_route.ingest(tree(*spellings, each=6))
    else:
        labels = {f"{number:04d}.cls": spellings[number % 5].encode() for number in range(30)}
        drop = local_route.ingest(
            {"train.tar": tar({**{f"{number:04d}.png": png(number) for number in range(30)}, **labels})}
        )
    assert (drop.classes, total(drop)) == (("ice bear",), 30)
    assert set(local_route.labels(drop).values()) == {"ice bear"}


def test_aliases_rename_and_merge_classes(local_route: IngestRoute) -> None:
    drop = local_route.ingest(tree("zero", "d0", "one"), aliases={"zero": "d0"})
    assert (drop.classes, total(drop)) == (("d0", "one"), 36)
    assert set(local_route.labels(drop).values()) == {"d0", "one"}


def test_classes_that_differ_in_case_are_reported(local_route: IngestRoute) -> None:
    drop = local_route.ingest(tree("Cat", "cat", "dog"))
    assert drop.reading is not None
    assert drop.reading.notes == (
        "classes Cat and cat differ only in upper and lower case; data.aliases can make them one",
    )


def test_interrupted_ingestion_can_be_repeated(tmp_path: Path, bucket: str, s3: str) -> None:
    route = open_route("s3", tmp_path, bucket, s3)
    first = route.ingest({"train.tar": tar(tree("cat", "dog"))})
    route.store.objects.delete(route.store.keys.manifest(first.id))
    assert route.ingest({}).digest == first.digest
