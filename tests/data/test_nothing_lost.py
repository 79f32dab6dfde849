"""Every file of a producer is a sample with the intended label, or the report names or counts it."""

import csv
import io
import tempfile
import unicodedata
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import NamedTuple

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.contents import content_of, placed
from support.ingest_routes import Files, IngestRoute, open_route, zipped
from support.pictures import png
from support.uploads import shard

from retrain.errors import DropError

IMAGES = [png(number, 4) for number in range(60)]
"""Images with different pixels: the content of each sample is unique."""
SUFFIXES = (
    ".png",
    ".png",
    ".PNG",
    ".jpg",
    ".webp",
    ".gif",
    ".tar.png",
    ".mask.png",
    ".cls",
    ".json",
    ".txt",
    ".db",
    "",
)
PICTURES = (".png", ".jpg", ".webp", ".gif")
STRAY = ("._x", ".DS_Store", ".cache", "__MACOSX", "@eaDir", "Thumbs.db", "lost+found", "_SUCCESS")
CLASSES = ("cat", "Cat", "CAT", "dog", "\ufeffcat", "cat\u00a0", "d\u200bog", "caf\u00e9", "cafe\u0301", "x.y", "a%20b")
WORDS = st.one_of(
    st.sampled_from(["a b", "a%20b", "x.y", "X.Y", "1.2.3", "__meta__", "packed", "caf\u00e9", "cafe\u0301", *STRAY]),
    st.text(
        st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="/"), min_size=1, max_size=6
    ),
).filter(lambda word: word not in (".", ".."))
SPLITS = ("train", "val", "test")
IN_SPLITS = st.tuples(st.sampled_from(SPLITS), st.one_of(st.sampled_from(CLASSES), WORDS))
FOLDERS = st.one_of(IN_SPLITS, IN_SPLITS, IN_SPLITS, st.lists(WORDS, max_size=3).map(tuple))
NAMES = st.builds(
    lambda folders, stem, suffix: "/".join((*folders, stem + suffix)), FOLDERS, WORDS, st.sampled_from(SUFFIXES)
).filter(lambda name: not name.startswith(".") and name.split("/")[-1] not in (".", ".."))
QUICK = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


class Source(NamedTuple):
    """Files as a producer names them, the rule that gives their labels, and the expected labels."""

    files: Files
    rule: str
    labels: dict[str, str]
    """Labels by the names of the images. Some images have none."""
    rows: int = 0
    """Rows of a table that name no image."""


def good() -> list[str]:
    """Return the names of enough images for each split. No drop is refused because images are missing."""
    return [f"{split}/{name}/zz{number}.png" for split in SPLITS for name in ("cow", "hen") for number in "12"]


def plain(label: str) -> str:
    """Return a class's name as people see it."""
    seen = "".join(one for one in label if unicodedata.category(one) != "Cf").replace("\u00a0", " ")
    return unicodedata.normalize("NFC", seen).strip()


@st.composite
def sources(draw: st.DrawFn) -> Source:
    """Draw files with unusual and with good names.

    Their labels are in folders, in files next to the images, or in a table.
    """
    names = without_clashes(draw(st.lists(NAMES, min_size=4, max_size=12, unique=True)), [*good(), "_SUCCESS"])
    rule, images = draw(st.sampled_from(["folder", "cls", "csv"])), iter(IMAGES)
    files = {name: next(images) for name in good()}
    for name in names:
        files[name] = draw(st.sampled_from([next(images), next(images), b"cat", b""]))
    pictures = [name for name, data in files.items() if data in IMAGES and name.lower().endswith(PICTURES)]
    if rule == "folder":
        return Source(files, rule, {name: name.split("/")[-2] for name in pictures if "/" in name})
    read = [name for name in pictures if not is_stray(name)]
    labels = {name: draw(st.sampled_from(CLASSES)) for name in read if name in good() or draw(st.integers(0, 3))}
    if rule == "cls":
        files |= {f"{name.rpartition('.')[0]}.cls": label.encode() for name, label in labels.items()}
        return Source(files, rule, labels)
    gone = draw(st.lists(WORDS.map(lambda word: f"gone/{word}.png"), max_size=2, unique=True))
    return Source({**files, "metadata.csv": table({**labels, **dict.fromkeys(gone, "cat")})}, rule, labels, len(gone))


def is_stray(name: str) -> bool:
    """Return whether a part of a name is a hidden file or a file that an operating system writes."""
    return any(part.startswith(".") or part in STRAY for part in name.split("/"))


def without_clashes(names: list[str], others: Iterable[str]) -> list[str]:
    """Leave out names that other names use as a folder."""
    taken = list(others)
    for name in names:
        if not any(f"{one}/".startswith(f"{name}/") or f"{name}/".startswith(f"{one}/") for one in taken):
            taken.append(name)
    return [name for name in names if name in taken]


def table(labels: dict[str, str]) -> bytes:
    """Return a table of labels."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([("file_name", "label"), *labels.items()])
    return buffer.getvalue().encode()


def by_split(files: Files, split: str) -> Files:
    """Return the files of a split's folder, by their paths below this folder."""
    return {name.removeprefix(f"{split}/"): data for name, data in files.items() if name.startswith(f"{split}/")}


def arrange(source: Source, form: str) -> Files:
    """Put files into archives: one archive of all files, or one archive for each split."""
    files = source.files
    if form in ("tree", "s3"):
        return files
    if form in ("tar", "zip"):
        return {"pets.tar": shard(files.items())} if form == "tar" else {"pets.zip": zipped(files)}
    packed = SPLITS if form == "shards" else SPLITS[:1]
    beside = {name: data for name, data in files.items() if name.split("/")[0] not in packed}
    return {**beside, **{f"{split}.tar": shard(by_split(files, split).items()) for split in packed}}


def check(route: IngestRoute, source: Source, form: str) -> None:
    """Commit a source, and look for each of its files in the result."""
    odd = source.files.keys() - set(good())
    try:
        drop = route.ingest(arrange(source, form), label_from=source.rule, max_bad_share=0.99)
    except DropError as refused:
        named = str(refused)
        assert any(part in named for name in odd for part in name.split("/") if part), named
        return
    found = placed(route.store, drop)
    assert drop.reading is not None
    control = (
        ("_SUCCESS", "drop.json", "quarantine.json") if route.source is None and form not in ("tar", "zip") else ()
    )
    unlisted = sum(name in control for name in source.files)
    counted = len(found) + len(drop.left_out) + sum(drop.reading.not_samples.values())
    assert counted == len(source.files) + source.rows - unlisted
    name_of = {content_of(data): name for name, data in source.files.items() if data in IMAGES}
    for content, (split, class_name) in found.items():
        name = name_of[content]
        assert (split, class_name) == (name.split("/")[0], plain(source.labels[name]))


@pytest.mark.parametrize("form", ["tree", "tar", "zip", "shards", "mixed"])
@QUICK
@given(route=st.sampled_from(["pack", "upload"]), source=sources())
def test_every_file_is_a_sample_or_is_named_or_counted(form: str, route: str, source: Source) -> None:
    if form in ("shards", "mixed") and source.rule == "csv":
        return  # a table must be next to its images, and these archives separate them
    with tempfile.TemporaryDirectory() as folder:
        check(open_route(route, Path(folder)), source, form)


BUCKETS = count()


@settings(QUICK, max_examples=3)
@given(source=sources(), split=st.sampled_from(SPLITS), odd=st.sampled_from(["cow//x.png", "/x.png", "cow/./x.png"]))
def test_every_object_is_a_sample_or_is_named_or_counted(s3: str, source: Source, split: str, odd: str) -> None:
    bucket = f"nothing-lost-{next(BUCKETS)}"
    boto3.client("s3", endpoint_url=s3).create_bucket(Bucket=bucket)
    files = {**source.files, f"{split}/{odd}": png(1000, 4), f"{split}/hen/": b""}
    with tempfile.TemporaryDirectory() as folder:
        check(open_route("s3", Path(folder), bucket, s3), source._replace(files=files), "s3")
