"""The promise: whatever names a producer chose, every file is a sample, or the manifest names or counts it."""

import random
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.pictures import png
from support.uploads import shard
from support.ways_in import open_way_in, zipped

from retrain.errors import DropError

IMAGES = [png(number, 4) for number in range(40)]
"""Each of its own pixels: copies are told by their content, and are another test's."""
SUFFIXES = (".png", ".PNG", ".jpg", ".cls", ".json", ".txt", ".db", "", ".tar.png", ".gif", ".mask.png", ".webp")
LITTER = ["._x", ".DS_Store", "__MACOSX", "@eaDir", "Thumbs.db", "lost+found", "_SUCCESS"]
ODD = ["a b", "a%20b", "\ufeffcat", "cat\u00a0", "caf\u00e9", "cafe\u0301", "x.y", "__meta__", "1.2.3", "packed"]
PARTS = st.one_of(
    st.sampled_from(["cat", "dog", "train", "val", "test", *LITTER, *ODD]),
    st.text(
        st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="/"), min_size=1, max_size=8
    ),
).filter(lambda part: part not in (".", ".."))
NAMES = st.builds(
    lambda folders, stem, suffix: "/".join((*folders, stem + suffix)),
    st.lists(PARTS, max_size=3),
    PARTS,
    st.sampled_from(SUFFIXES),
).filter(lambda name: not name.startswith(".") and name.split("/")[-1] not in (".", ".."))
"""Names of files, of which a store takes all."""


def good(rule: str) -> dict[str, bytes]:
    """Enough labelled images for every split, so that a drop is refused for no other reason."""
    names = [
        f"{split}/{name}/zz{number}" for split in ("train", "val", "test") for name in ("cow", "hen") for number in "12"
    ]
    files = {f"{name}.png": image for name, image in zip(names, IMAGES, strict=False)}
    return files if rule == "folder" else {**files, **{f"{name}.cls": b"cow" for name in names}}


def without_clashes(names: list[str], others: Iterable[str]) -> list[str]:
    """Leave out names that are a folder of another name, or below one."""
    taken = list(others)
    for name in names:
        if not any(f"{one}/".startswith(f"{name}/") or f"{name}/".startswith(f"{one}/") for one in taken):
            taken.append(name)
    return [name for name in names if name in taken]


@pytest.mark.parametrize("way", ["pack", "upload"])
@pytest.mark.parametrize("form", ["tree", "tar", "zip"])
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(names=st.lists(NAMES, max_size=14, unique=True), rule=st.sampled_from(["folder", "cls"]), seed=st.integers(0, 9))
def test_every_file_is_a_sample_or_is_named_or_counted(
    way: str, form: str, names: list[str], rule: str, seed: int
) -> None:
    dice = random.Random(seed)
    images = IMAGES[20:]
    odd = {name: dice.choice([images.pop(), b"cat", b""]) for name in without_clashes(names, good(rule))}
    files = {**odd, **good(rule)}
    given_files: Mapping[str, bytes] = {
        "tree": lambda: files,
        "tar": lambda: {"pets.tar": shard(files.items())},
        "zip": lambda: {"pets.zip": zipped(files)},
    }[form]()
    with tempfile.TemporaryDirectory() as folder:
        entry = open_way_in(way, Path(folder))
        try:
            drop = entry.take(given_files, label_from=rule, max_bad_share=0.99)
        except DropError as refused:
            named = str(refused)
            assert any(part in named for name in odd for part in name.split("/")), named
            return
        samples = [(shard_name, key) for shard_name, key, _ in entry.samples(drop)]
        assert drop.reading is not None
        uncounted = sum(name in ("_SUCCESS", "drop.json", "quarantine.json") for name in odd) if way == "upload" else 0
        counted = len(samples) + len(drop.left_out) + sum(drop.reading.not_samples.values())
        assert counted == len(files) - (uncounted if form == "tree" else 0)
        assert len(set(samples)) == len(samples)
