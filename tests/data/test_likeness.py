"""Near-duplicates are reported, especially between training and held-out samples, and never moved."""

import itertools
import string
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from support.ingest_routes import open_route
from support.pictures import encoded

from retrain.data.content import ImageFacts, difference_hash, mean_brightness
from retrain.data.likeness import MOST_BITS, candidates, distances, find_alike, hash_values
from retrain.data.sample_table import SampleRow, SampleTable
from retrain.data.table_making import read_or_make_table


def photograph(number: int, size: int = 64) -> Image.Image:
    """Return a smooth image that is different for each number."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def facts_of(pixels: np.ndarray, number: int) -> ImageFacts:
    """Return the facts of an image of 64 x 64 pixels. `number` changes one grey value of its thumbnail."""
    thumbnail = pixels.astype(np.uint8).ravel()
    thumbnail[number % 64] ^= 1 + number // 64 % 16
    parts = np.repeat(pixels, 2, axis=1)[:, :9].astype(np.uint8)
    return ImageFacts(number.to_bytes(16, "little"), 64, 64, parts.tobytes(), thumbnail.tobytes())


def files() -> dict[str, bytes]:
    """Return an upload with splits. One test image is a lossy copy of a training image."""
    found = {
        f"{split}/{name}/{number}.png": encoded(photograph(100 * place + number))
        for place, (split, name) in enumerate(itertools.product(("train", "val", "test"), ("cat", "dog")))
        for number in range(5)
    }
    found["test/cat/again.jpg"] = encoded(photograph(3), "JPEG", quality=80)
    return found


@pytest.mark.parametrize("route", ["pack", "upload"])
def test_lossy_copy_is_reported_and_not_moved(route: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    where = open_route(route, tmp_path)
    with caplog.at_level("INFO", "retrain"):
        drop = where.ingest(files())
    told = [one for one in caplog.messages if one.startswith("near-duplicates, one of them held out")]
    assert told == [
        "near-duplicates, one of them held out: cat/3 of drop week-45 (train, cat) looks like cat/again of drop "
        "week-45 (test, cat)"
    ]
    assert drop.samples("test") == 11
    [pair] = find_alike([(drop.id, read_or_make_table(drop, where.store))])
    assert pair.leaks


def test_hash_and_brightness_match_a_naive_loop() -> None:
    parts = np.random.default_rng(0).integers(0, 256, (50, 8, 9), dtype=np.uint8)
    for image, hashed, brightness in zip(parts, difference_hash(parts), mean_brightness(parts), strict=True):
        bits = "".join(str(int(row[place + 1] > row[place])) for row in image for place in range(8))
        assert hashed.tobytes() == int(bits, 2).to_bytes(8)
        assert brightness == int(image.mean())


def test_pairs_match_a_naive_search() -> None:
    draw = np.random.default_rng(0)
    hashes = draw.integers(0, 2**63, 400, dtype=np.uint64)
    near = hashes[:100] ^ (np.uint64(1) << draw.integers(0, 63, 100, dtype=np.uint64))
    nearer = near[:50] ^ draw.integers(0, 2**16, 50, dtype=np.uint64)
    every = np.concatenate([hashes, near, nearer])
    expected = {
        (one, other)
        for one, other in itertools.combinations(range(len(every)), 2)
        if int(every[one] ^ every[other]).bit_count() <= MOST_BITS
        and any((int(every[one] ^ every[other]) >> 16 * part) & 0xFFFF == 0 for part in range(4))
    }
    assert len(expected) > 150
    assert {tuple(pair) for pair in candidates(every).tolist()} == expected
    with_new = {pair for pair in expected if max(pair) >= 520}
    assert {tuple(pair) for pair in candidates(every, 520).tolist()} == with_new


def test_candidates_per_image_are_limited() -> None:
    same_part = (np.arange(1, 5001, dtype=np.uint64) << np.uint64(20)) | np.uint64(0b1011)
    assert len(candidates(same_part)) < 5000 * 4 * 32
    plain = np.zeros(5000, np.uint64)
    assert len(candidates(plain)) == 0


def test_few_new_images_take_little_memory_for_comparison() -> None:
    """Only images that may look alike need their thumbnails as floating-point numbers."""
    thumbnails = np.ones((50_000, 64), np.uint8)
    tracemalloc.start()
    assert distances(thumbnails, np.array([[0, 1]])).tolist() == [np.inf]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < thumbnails.nbytes


def test_distance_ignores_brightness_and_contrast() -> None:
    grey = np.random.default_rng(0).integers(20, 120, (2, 64), dtype=np.uint8)
    plain = np.full((1, 64), 200, np.uint8)
    thumbnails = np.concatenate([grey, grey[:1] + 40, grey[:1] * 2, plain, np.zeros((1, 64), np.uint8)])
    pairs = np.array([(0, 1), (0, 2), (0, 3), (0, 4), (0, 5)])
    unlike, brighter, contrast, against_plain, missing = distances(thumbnails, pairs).tolist()
    expected = [(one - one.mean()) / one.std() for one in grey.astype(float)]
    assert unlike == pytest.approx(np.sqrt(((expected[0] - expected[1]) ** 2).mean()), rel=1e-4)
    assert max(brighter, contrast) < 1e-5
    assert against_plain == np.inf
    assert np.isnan(missing)


def test_different_letters_are_not_near_duplicates(tmp_path: Path) -> None:
    """Line drawings have nearly equal hashes but different thumbnails. Q is left out because it looks like O."""
    letters = {name: Image.new("RGB", (64, 64), "white") for name in string.ascii_uppercase if name != "Q"}
    for name, image in letters.items():
        ImageDraw.Draw(image).text((32, 32), name, "black", ImageFont.load_default(44), anchor="mm")
    drawn = {f"letter/{name}.png": encoded(image) for name, image in letters.items()}
    again = {f"again/{name}.jpg": encoded(letters[name], "JPEG", quality=80) for name in "ARST"}
    where = open_route("pack", tmp_path)
    table = read_or_make_table(where.ingest(drawn | again), where.store)
    found = {frozenset((pair.first.key[-1], pair.second.key[-1])) for pair in find_alike([("d", table)])}
    assert found == {frozenset(name) for name in "ARST"}
    assert len(candidates(hash_values(table))) > 20


def test_tables_without_thumbnails_are_compared_by_hash(tmp_path: Path) -> None:
    where = open_route("pack", tmp_path)
    table = read_or_make_table(where.ingest(files()), where.store)
    [pair] = find_alike([("d", replace(table, thumbnail=np.zeros_like(table.thumbnail)))])
    assert {pair.first.key, pair.second.key} == {"cat/3", "cat/again"}


def test_only_pairs_of_the_new_drop_are_reported(tmp_path: Path) -> None:
    where = open_route("pack", tmp_path)
    drop = where.ingest(files())
    table = read_or_make_table(drop, where.store)
    again = [(drop.id, table), ("other", table)]
    assert all(pair.second.drop == "other" or pair.first.drop == "other" for pair in find_alike(again, since=1))


def test_frames_of_a_video_are_named_only_when_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each frame looks like all others. The most similar pairs of a training and a held-out sample come first."""
    pixels = np.random.default_rng(0).integers(20, 230, (8, 8))
    rows = [
        SampleRow(f"cat/{number}", "cat", "test" if number % 10 == 0 else "train", 0, facts_of(pixels, number))
        for number in range(200)
    ]
    with monkeypatch.context() as patched:
        patched.setattr(SampleTable, "class_of", None)
        pairs = find_alike([("video", SampleTable.of(rows))])
    assert len(pairs) > 20 * len(rows)
    assert [pair.leaks for pair in pairs] == [True] * pairs.leaks + [False] * (len(pairs) - pairs.leaks)
    assert pairs.first(2 * len(pairs)) == list(pairs)
    far = [pair.distance for pair in pairs.first(pairs.leaks)]
    assert far == sorted(far)
