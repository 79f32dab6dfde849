"""Sources are read in a fixed order, unreadable sources are refused, and samples get their keys."""

import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pictures import folder, png, tar

from retrain.config.task import Data
from retrain.data.labels import Sample
from retrain.data.sample_keys import escape, escape_path, possible_keys, readable_key
from retrain.data.source import read_source, survey_source
from retrain.errors import DropError

PARTS = st.text(min_size=1).filter(lambda text: "/" not in text)


def shown(samples: tuple[Sample, ...]) -> list[tuple[str | None, str, str]]:
    return [(sample.split, sample.class_name, sample.stem) for sample in samples]


def test_samples_are_ordered_by_split_class_and_name(tmp_path: Path) -> None:
    folder(tmp_path, "test/cat/9.png", "train/dog/2.png", "train/cat/b.jpg", "val/dog/1.webp", "train/cat/a.PNG")
    assert shown(read_source(tmp_path)) == [
        ("train", "cat", "a"),
        ("train", "cat", "b"),
        ("train", "dog", "2"),
        ("val", "dog", "1"),
        ("test", "cat", "9"),
    ]


def test_samples_in_folders_without_splits_have_no_split(tmp_path: Path) -> None:
    assert shown(read_source(folder(tmp_path, "dog/1.png", "cat/1.png"))) == [(None, "cat", "1"), (None, "dog", "1")]


def test_tar_gives_the_samples_and_bytes_of_its_folder(tmp_path: Path) -> None:
    root = folder(tmp_path / "folder", "train/cat/1.png", "train/dog/1.bmp", "test/cat/1.jpeg")
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(root, ".")
    from_folder, from_tar = read_source(root), read_source(tmp_path / "images.tar")
    assert shown(from_tar) == shown(from_folder)
    assert [sample.entry.read() for sample in from_tar] == [sample.entry.read() for sample in from_folder]


def test_tars_in_a_folder_are_split_by_their_names(tmp_path: Path) -> None:
    tar(tmp_path / "train-1.tar", [("cat/1.png", png(1))])
    tar(tmp_path / "train-0.tar", [("dog/2.png", png(2))])
    tar(tmp_path / "test.tar", [("cat/1.png", png(3))])
    (tmp_path / "SHA256SUMS").write_text("of the tars")
    samples = read_source(tmp_path)
    assert shown(samples) == [("train", "cat", "1"), ("train", "dog", "2"), ("test", "cat", "1")]
    assert [sample.entry.read() for sample in samples] == [png(1), png(2), png(3)]


def test_keys_are_unique_and_safe_for_webdataset(tmp_path: Path) -> None:
    names = ["a b/x.y.png", "a b/x%2Ey.png", "__meta__/ü.png", "b.c/1.png"]
    keys = [sample.key for sample in read_source(folder(tmp_path, *names))]
    assert keys == ["%5F_meta__/%C3%BC", "a%20b/x%252Ey", "a%20b/x%2Ey", "b%2Ec/1"]


def test_names_are_equal_in_any_unicode_form(tmp_path: Path) -> None:
    folder(tmp_path, "cafe\u0301/1.png", "caf\u00e9/2.png")
    assert shown(read_source(tmp_path)) == [(None, "caf\u00e9", "1"), (None, "caf\u00e9", "2")]


def test_desktop_files_in_folders_are_ignored(tmp_path: Path) -> None:
    folder(tmp_path, "cat/1.png", ".DS_Store", "cat/.DS_Store", "cat/._1.png", "cat/Thumbs.db", "cat/desktop.ini")
    assert shown(read_source(tmp_path)) == [(None, "cat", "1")]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no images in it"),
        (["cat/1.png", "dog/.DS_Store"], "dog: an empty folder"),
        (["cat/1.png", "cat/readme.txt"], "cat/readme.txt: not an image of a class"),
        (["cat/1.png", "1.png"], "1.png: not an image of a class"),
        (
            ["cat/1.png", "labels.csv"],
            "labels.csv: not an image; name a table of labels metadata.csv, or pass the table",
        ),
        (["cat/tabby/1.png"], "cat/tabby/1.png: not an image of a class"),
        (["train/cat/1.png", "dog/1.png"], "others outside of them"),
        (["cat/1.png", "cat/1.jpg"], "duplicate key cat/1"),
    ],
)
def test_folder_with_an_unknown_layout_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(DropError, match=message) as raised:
        read_source(folder(tmp_path, *names))
    assert str(tmp_path) in str(raised.value)


def test_missing_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DropError, match="nowhere: no such file or folder"):
        read_source(tmp_path / "nowhere")
    with pytest.raises(DropError, match="not a path on this machine: download it first"):
        read_source(Path("s3://bucket/photos"))


def test_error_explains_a_table_with_semicolons(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path;label\na.png;cat\n")
    with pytest.raises(DropError, match=r"its columns are path;label\. Separate columns by commas"):
        survey_source(tmp_path / "labels.csv", Data())


def test_error_explains_two_rows_of_one_image(tmp_path: Path) -> None:
    (folder(tmp_path, "a.png") / "labels.csv").write_text("path,label\na.png,cat\na.png,dog\n")
    with pytest.raises(DropError, match=r"a\.png: two rows name this image: remove one of them"):
        survey_source(tmp_path / "labels.csv", Data())


def test_empty_class_is_refused(tmp_path: Path) -> None:
    (folder(tmp_path, "train/cat/1.png") / "train/dog").mkdir()
    with pytest.raises(DropError, match="train/dog: an empty folder"):
        read_source(tmp_path)


def test_link_is_refused(tmp_path: Path) -> None:
    (folder(tmp_path, "cat/1.png") / "cat/2.png").symlink_to("/etc/hostname")
    with pytest.raises(DropError, match=r"cat/2\.png: a link or a special file"):
        read_source(tmp_path)


def test_one_key_in_two_tars_is_refused(tmp_path: Path) -> None:
    for name in ("train-0.tar", "train-1.tar"):
        tar(tmp_path / name, [("cat/1.png", png(1))])
    with pytest.raises(DropError, match=r"train-1\.tar: cat/1\.png: duplicate key cat/1: .*train-0\.tar"):
        read_source(tmp_path)


def test_tar_whose_name_states_no_split_is_refused(tmp_path: Path) -> None:
    for name in ("trained.tar", "tested.tar"):
        tar(tmp_path / name, [("cat/1.png", png(1))])
    with pytest.raises(DropError, match=r"ed\.tar: the archive's name does not state its split"):
        read_source(tmp_path)


def linked(kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo("cat/2.png")
    member.type, member.linkname = kind, "/etc/hostname"
    return member


@pytest.mark.parametrize(
    "member",
    ["/cat/2.png", "cat/../../2.png", "cat/2\n.png", *map(linked, (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE))],
)
def test_unsafe_tar_member_is_refused(tmp_path: Path, member: str | tarfile.TarInfo) -> None:
    path = tar(tmp_path / "images.tar", [("cat/1.png", png(1)), (member, b"")])
    with pytest.raises(DropError, match=r"images\.tar: "):
        read_source(path)


@pytest.mark.parametrize("keep", [700, 1536, 3072, -10240])
def test_truncated_tar_is_refused(tmp_path: Path, keep: int) -> None:
    path = tar(tmp_path / "images.tar", [(f"cat/{number}.png", png(number)) for number in range(20)])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DropError, match=r"images\.tar: .*(cut short|not a complete)"):
        read_source(path)


def test_damaged_header_is_not_mistaken_for_the_end_of_a_tar(tmp_path: Path) -> None:
    path = tar(tmp_path / "images.tar", [(f"cat/{number}.png", png(number)) for number in range(3)])
    data = bytearray(path.read_bytes())
    data[data.index(b"cat/1.png")] ^= 1
    path.write_bytes(data)
    with pytest.raises(DropError, match="not a complete, uncompressed tar: cut short, or bad checksum"):
        read_source(path)


def test_compressed_tar_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "images.tar", "w:gz") as archive:
        archive.add(folder(tmp_path / "folder", "cat/1.png"), ".")
    with pytest.raises(DropError, match="uncompressed"):
        read_source(tmp_path / "images.tar")


@pytest.mark.parametrize(
    ("key", "readable"),
    [
        ("cat/0017", "cat/0017"),
        ("%C3%A9toile%20filante/x%2Ey", "étoile filante/x.y"),
        ("%5F_meta__/1", "__meta__/1"),
        ("week%2F7", "week/7"),
        ("a/100%25", "a/100%"),
        ("producers.own%20/1", "producers.own%20/1"),
        ("a/%1B%5B31m", "a/%1B%5B31m"),
        ("a/%FF", "a/%FF"),
    ],
)
def test_readable_key_is_the_path_that_was_packed(key: str, readable: str) -> None:
    assert readable_key(key) == readable
    assert key in possible_keys(readable)


@given(st.lists(PARTS, min_size=1, max_size=3).map("/".join))
def test_possible_keys_contain_the_key_of_a_path_or_id(path: str) -> None:
    for key in (escape_path(path), escape(path)):
        assert key in possible_keys(path)
        assert key in possible_keys(readable_key(key))


@pytest.mark.parametrize("path", ["a b/x.y.png", "a b/x.y.JPG", "a b/x.y", "a%20b/x%2Ey"])
def test_path_may_keep_its_extension(path: str) -> None:
    assert "a%20b/x%2Ey" in possible_keys(path)
