"""Every kind of bad upload is accepted correctly, or quarantined with shard, key and cause."""

import gzip
import re
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from support.ingest_routes import ingest
from support.pictures import encoded, png
from support.uploads import Member, good, ingest_as_watcher, shard, task_in

from retrain.config.task import Task
from retrain.data.cache import decode_drop
from retrain.records import Drop
from retrain.store import LocalStore
from retrain.store.keys import TaskKeys
from retrain.store.task_store import TaskStore

KEYS = TaskKeys("pets")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return task_in(tmp_path)


@pytest.fixture
def store(task: Task) -> LocalStore:
    return LocalStore(Path(task.store))


def info(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/hostname" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def beside(*members: Member) -> Callable[[], dict[str, bytes]]:
    """Return a function that makes a drop of good samples with these members among them."""
    return lambda: {"train.tar": shard([*good(20), *members, *good(40, first=20)])}


def sample(data: bytes, label: bytes = b"cat") -> Callable[[], dict[str, bytes]]:
    """Return a function that makes a drop of good samples and one more sample, with the key `bad`."""
    return beside(("bad.png", data), ("bad.cls", label))


def flat(side: int) -> bytes:
    """Return a black picture. It compresses to a small file."""
    return encoded(Image.new("1", (side, side)))


def text_bomb() -> bytes:
    """Return a picture with a comment that unpacks to 200 MB."""
    info = PngImagePlugin.PngInfo()
    info.add(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 1))
    return encoded(Image.new("RGB", (8, 8)), pnginfo=info)


VALID = shard(good(60))
REFUSED: dict[str, tuple[Callable[[], dict[str, bytes]], str]] = {
    "cut in an image": (
        lambda: {"train.tar": VALID[:1800]},
        r"train\.tar: (000000\.png: the tar ends|not a complete)",
    ),
    "cut in a header": (
        lambda: {"train.tar": VALID[:2300]},
        r"train\.tar: not a complete, uncompressed tar: cut short",
    ),
    "cut between two members": (
        lambda: {"train.tar": VALID[:20480]},
        r"train\.tar: not a complete, uncompressed tar: cut short",
    ),
    "damaged header": (
        lambda: {"train.tar": VALID.replace(b"000009.png", b"000009.pngx", 1)},
        r"train\.tar: not a complete",
    ),
    "empty file": (lambda: {"train.tar": b""}, r"train\.tar: not a complete, uncompressed tar: cut short"),
    "two tars in one file": (
        lambda: {"train.tar": VALID + shard(good(9, first=60))},
        r"train\.tar: .*something follows its end",
    ),
    "compressed": (lambda: {"train.tar": gzip.compress(VALID)}, r"train\.tar: not a complete, uncompressed tar"),
    "undecodable": (sample(b"no image"), r"train\.tar: bad: cannot be decoded: not an image in"),
    "empty image": (sample(b""), r"train\.tar: bad: cannot be decoded: the file is empty"),
    "pointer of Git LFS": (
        sample(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
        r"train\.tar: bad: cannot be decoded: a pointer of Git LFS .*: run `git lfs pull` to fetch the images",
    ),
    "truncated picture": (sample(png(1)[:-60]), r"train\.tar: bad: cannot be decoded"),
    "20,000 x 20,000 pixels": (lambda: sample(flat(20_000))(), r"train\.tar: bad: cannot be decoded: .*bomb"),
    "8,000 x 8,000 pixels": (lambda: sample(flat(8_000))(), r"train\.tar: bad: .* 8000 x 8000 pixels; at most "),
    "bomb in a comment": (lambda: sample(text_bomb())(), r"train\.tar: bad: cannot be decoded: .*too large"),
    "label missing": (beside(("bad.png", png(1))), r"train\.tar: bad\.png: no label: there is no bad\.cls"),
    "label empty": (sample(png(1), b" \n"), r"train\.tar: bad\.png: its class has no name"),
    "label not text": (sample(png(1), b"\xff\xfe"), r"train\.tar: bad\.png: its class name is not text in UTF-8"),
    "label with an escape": (
        sample(png(1), b"\x1b[31mcat"),
        r"train\.tar: bad\.png: its class name .* contains control",
    ),
    "label too long": (
        sample(png(1), b"c" * 256),
        r"train\.tar: bad\.png: its class name has 256 characters: shorten it to 255",
    ),
    "image missing": (beside(("bad.cls", b"cat")), r"train\.tar: bad\.cls: no image has this name"),
    "two images": (
        beside(("bad.png", png(1)), ("bad.jpg", png(1))),
        r"train\.tar: bad\.jpg, bad\.png: 2 images have this name",
    ),
    "file twice": (beside(("bad.png", png(1)), ("bad.png", png(1))), r"train\.tar: bad\.png: duplicate file"),
    "key twice": (beside(("000001.png", png(1)), ("000001.cls", b"cat")), r"train\.tar: 000001: duplicate key"),
    "key in two shards": (
        lambda: {"train-0.tar": shard(good(40)), "train-1.tar": shard(good(40, first=39))},
        r"train-1\.tar: 000039: duplicate key",
    ),
    "no extension": (beside(("README", b"hello")), r"train\.tar: README: it belongs to no image"),
    "absolute name": (beside(("/etc/cron.d/1.png", png(1))), r"train\.tar: /etc/cron\.d/1\.png: the path is absolute"),
    "name that leaves the folder": (
        beside(("cat/../../1.png", png(1))),
        r"train\.tar: cat/\.\./\.\./1\.png: the path is absolute",
    ),
    "newline in a name": (beside(("cat/1\n2.png", png(1))), r"train\.tar: 'cat/1\\n2\.png': the name is not text"),
    "name not text": (beside(("cat/\udcff.png", png(1))), r"train\.tar: .*: the name is not text in UTF-8"),
    "name too long": (beside((f"{'x' * 5000}.png", png(1))), r"train\.tar: x+\.\.\.: the name has more than 4,096"),
    "header too long": (beside((info("1.png", pax_headers={"x": "y" * 20_000}), png(1))), r"16,384 are allowed"),
    "size too large": (
        lambda: {"train.tar": info("bad.png", size=10**12).tobuf(tarfile.GNU_FORMAT) + VALID},
        r"bad\.png: 1,000,000,000,000 bytes; 0 to",
    ),
    "size below zero": (
        beside((info("1.png", pax_headers={"size": "-1024"}), b"")),
        r"train\.tar: .*(-1,024 bytes|invalid offset)",  # the message depends on tarfile's version
    ),
    "symbolic link": (
        beside((info("bad.png", tarfile.SYMTYPE), b"")),
        r"train\.tar: bad\.png: a link or a special file",
    ),
    "hard link": (beside((info("bad.png", tarfile.LNKTYPE), b"")), r"train\.tar: bad\.png: a link or a special file"),
    "device": (beside((info("bad.png", tarfile.CHRTYPE), b"")), r"train\.tar: bad\.png: a link or a special file"),
    "pipe": (beside((info("bad.png", tarfile.FIFOTYPE), b"")), r"train\.tar: bad\.png: a link or a special file"),
    "sparse file": (beside((info("bad.png", tarfile.GNUTYPE_SPARSE), b"")), r"train\.tar: bad\.png: a link or a "),
    "no samples": (lambda: {"train.tar": shard([])}, "drop bad: no sample in it can be used"),
    "no files": (dict, "drop bad: no training image in it"),
    "samples of another drop": (
        lambda: {"train.tar": shard(good(1))},
        "drop bad: it has no new image: earlier drops, such as good, have all of its images: add new images, or "
        "delete the upload",
    ),
    "no split": (
        lambda: {"more.tar": VALID, "photos.tar": VALID},
        r"photos\.tar: the archive's name does not state its split",
    ),
    "tree, undecodable": (
        lambda: {f"cat/{number}.png": png(number) if number else b"" for number in range(60)},
        r"bad: cat/0\.png: cannot be decoded",
    ),
    "tree, a stray file": (
        lambda: {"cat/1.png": png(1), "cat/notes.txt": b""},
        r"cat/notes\.txt: not an image of a class",
    ),
    "tree, one name twice": (lambda: {"cat/1.png": png(1), "cat/1.jpg": png(1)}, r"cat/1\.png: duplicate key cat/1"),
    "tree and shards": (lambda: {"train.tar": VALID, "cat/1.png": png(1)}, r"cat/1\.png: no label"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_drop_is_quarantined_with_shard_key_and_cause(task: Task, store: LocalStore, case: str) -> None:
    files, cause = REFUSED[case]
    assert ingest_as_watcher(task, store, "good", {"train.tar": VALID}) is None
    reason = ingest_as_watcher(task, store, "bad", files())
    [(drop, report)] = TaskStore(store, "pets").drops.quarantine_causes().items()
    assert (drop, report) == ("bad", reason)
    assert [found.id for found in TaskStore(store, "pets").drops.all()] == ["good"]
    assert re.search(cause, report), report


def test_drop_with_an_invalid_name_is_quarantined(task: Task, store: LocalStore) -> None:
    assert "allowed are 1 to 63 lower-case letters" in str(
        ingest_as_watcher(task, store, "Week 45", {"train.tar": VALID})
    )
    assert list(TaskStore(store, "pets").drops.quarantine_causes()) == ["Week 45"]


def upright(kind: str) -> bytes:
    """Return an image that is blue on the left and red on the right, stored on its side with an EXIF orientation."""
    lying = Image.new("RGB", (16, 16), (0, 0, 255))
    lying.paste((255, 0, 0), (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise: the top goes to the right
    return encoded(lying, kind, exif=exif)


def palette() -> bytes:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([9, 9, 9, 200, 100, 50])
    return encoded(image, transparency=bytes([0, 128]))


def animated(kind: str) -> bytes:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ((200, 100, 50), (0, 0, 0)))
    return encoded(first, kind, save_all=True, append_images=[second])


ODD: dict[str, tuple[str, bytes, tuple[int, int, int]]] = {
    "exif-jpeg": ("jpg", upright("JPEG"), (255, 0, 0)),
    "exif-png": ("png", upright("PNG"), (255, 0, 0)),
    "cmyk": ("jpg", encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), (255, 0, 0)),
    "sixteen-bit": ("png", encoded(Image.fromarray(np.full((8, 8), 0xC8FF, np.uint16))), (200, 200, 200)),
    "palette": ("png", palette(), (227, 177, 152)),  # half transparent, on white
    "animated-png": ("png", animated("PNG"), (200, 100, 50)),
    "animated-webp": ("webp", animated("WEBP"), (200, 100, 50)),
    "one-pixel": ("png", encoded(Image.new("RGB", (1, 1), (200, 100, 50))), (200, 100, 50)),
    "one-line": ("bmp", encoded(Image.new("RGB", (3000, 1), (200, 100, 50)), "BMP"), (200, 100, 50)),
}


def colour(drop: Drop, store: LocalStore, name: str) -> np.ndarray:
    """Return the colour at the right edge of the only training picture of a class."""
    images, labels = decode_drop(drop, TaskStore(store, "pets"), 8)["train"]
    [image] = images[labels == drop.classes.index(name)]
    return image[:, 4, 7].numpy()


@pytest.mark.parametrize("as_tree", [True, False])
def test_unusual_images_are_read_with_the_right_pixels(task: Task, store: LocalStore, as_tree: bool) -> None:
    plain = [[(f"{name}/1.png", png(first + n)) for n, name in enumerate(ODD)] for first in (0, 1000)]
    splits = {"train": [(f"{name}/1.{odd[0]}", odd[1]) for name, odd in ODD.items()], "val": plain[0], "test": plain[1]}
    if as_tree:
        files = {f"{split}/{name}": data for split, members in splits.items() for name, data in members}
    else:
        files = {f"{split}.tar": shard(members) for split, members in splits.items()}
    assert ingest_as_watcher(task, store, "odd", files) is None
    drop = TaskStore(store, "pets").drops.read("odd")
    for name, (_, _, expected) in ODD.items():
        assert np.abs(colour(drop, store, name).astype(int) - expected).max() <= 16, name


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_tar_with_long_or_non_ascii_names_is_accepted(task: Task, store: LocalStore, form: int) -> None:
    names = [f"größe/{'ö' * 300}-{number}.png" for number in range(30)] + [f"猫/{n}.PNG" for n in range(30)]
    files = {"train.tar": shard([(name, png(number)) for number, name in enumerate(names)], form)}
    assert ingest_as_watcher(task, store, "names", files) is None
    drop = TaskStore(store, "pets").drops.read("names")
    assert drop.classes == ("größe", "猫")
    assert sum(map(len, (arrays.labels for arrays in decode_drop(drop, TaskStore(store, "pets"), 8).values()))) == 60


def test_unicode_spellings_of_a_class_are_one_class(task: Task, store: LocalStore) -> None:
    labels = ["größe".encode(), b"gr\xc3\xb6\xc3\x9fe\n", "gro\u0308ße".encode()]
    members = [m for n in range(60) for m in ((f"{n}.png", png(n)), (f"{n}.cls", labels[n % 3]))]
    assert ingest_as_watcher(task, store, "labels", {"train.tar": shard(members)}) is None
    assert TaskStore(store, "pets").drops.read("labels").classes == ("größe",)


def test_other_files_next_to_an_image_are_ignored(task: Task, store: LocalStore) -> None:
    members = [*good(60), ("bad.png", png(99)), ("bad.cls", b"cat"), ("bad.json", b"{}"), ("bad.__bad__", b"")]
    assert ingest_as_watcher(task, store, "extras", {"train.tar": shard(members)}) is None
    assert TaskStore(store, "pets").drops.read("extras").shards[0].samples == 61


def test_class_with_one_sample_is_accepted(task: Task, store: LocalStore) -> None:
    assert (
        ingest_as_watcher(
            task, store, "lonely", {"train.tar": shard([*good(60), ("1.png", png(99)), ("1.cls", b"rare")])}
        )
        is None
    )
    drop = TaskStore(store, "pets").drops.read("lonely")
    assert drop.classes == ("cat", "dog", "rare")
    assert sum(counts.get("rare", 0) for counts in drop.counts.values()) == 1


def spoiled(bad: int) -> dict[str, bytes]:
    """Return a drop of 60 samples, `bad` of which cannot be decoded."""
    members = good(60)
    for number in range(bad):
        members[2 * number] = (members[2 * number][0], b"no image")
    return {"train.tar": shard(members)}


def test_bad_samples_up_to_the_limit_are_left_out_and_reported(tmp_path: Path, store: LocalStore) -> None:
    task = task_in(tmp_path, max_bad_share=0.05)
    assert ingest_as_watcher(task, store, "few", spoiled(3)) is None
    drop = ingest("few", task, TaskStore(store, task.name))
    assert [(bad.where, bad.key) for bad in drop.left_out] == [("train.tar", f"{number:06d}") for number in range(3)]
    assert drop.left_out[0].cause == (
        "cannot be decoded: not an image in AVIF, BMP, GIF, JPEG, PNG, TIFF, WEBP, HEIF: convert or remove it"
    )
    assert (drop.shards[0].samples, sum(map(drop.samples, drop.counts))) == (57, 57)
    assert sum(len(arrays.labels) for arrays in decode_drop(drop, TaskStore(store, "pets"), 8).values()) == 57


def test_drop_above_the_bad_sample_limit_is_refused(tmp_path: Path, store: LocalStore) -> None:
    task = task_in(tmp_path, max_bad_share=0.05)
    reason = str(ingest_as_watcher(task, store, "many", spoiled(4)))
    assert reason.startswith(
        "4 of 60 samples are bad, and data.max_bad_share allows 5.00%: train.tar: 000000: cannot be"
    )
    assert TaskStore(store, "pets").drops.all() == ()


def test_folder_is_packed_without_its_bad_images(tmp_path: Path, store: LocalStore) -> None:
    task = task_in(tmp_path, max_bad_share=0.05)
    files = {f"cat/{number:02d}.png": png(number) if number else b"no image" for number in range(60)}
    assert ingest_as_watcher(task, store, "tree", files) is None
    drop = TaskStore(store, "pets").drops.read("tree")
    assert [(bad.where, bad.key) for bad in drop.left_out] == [("cat/00.png", "cat/00")]
    assert sum(shard.samples for shard in drop.shards) == 59


@pytest.mark.parametrize("as_tree", [True, False])
def test_refusal_names_ten_bad_files_and_counts_the_rest(task: Task, store: LocalStore, as_tree: bool) -> None:
    tree = {f"cat/{number:02d}.png": png(number) if number > 11 else b"no image" for number in range(60)}
    reason = str(ingest_as_watcher(task, store, "bad", tree | {"cat/notes.txt": b"hello"} if as_tree else spoiled(13)))
    named = re.findall(r"cat/\d\d\.png|cat/notes\.txt|train\.tar: 0000\d\d", reason)
    assert len(set(named)) == len(named) == 10
    assert ("cat/notes.txt: not an image of a class" in reason) == as_tree
    assert "convert or remove it; and 3 more. Correct or remove them, or leave a share" in reason
    assert reason.endswith(". `retrain drop pack --dry-run` lists all files of a local folder")
    assert TaskStore(store, "pets").drops.quarantine_causes() == {"bad": reason}
