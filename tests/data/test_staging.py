"""Staging divides one source into several drops."""

from pathlib import Path

import pytest
from support.pictures import folder, png
from support.uploads import shard

from retrain.data.labels import Sample
from retrain.data.source import read_source
from retrain.data.staging import Staging, split_into_parts
from retrain.errors import DropError


@pytest.fixture
def samples(tmp_path: Path) -> tuple[Sample, ...]:
    """Return the samples of ten classes, each with twenty training and ten test samples."""
    for split, size in (("train", 20), ("test", 10)):
        for label in range(10):
            folder(tmp_path, *(f"{split}/c{label}/{number:02d}.png" for number in range(size)))
    return read_source(tmp_path)


def classes(part: tuple[Sample, ...], split: str) -> set[str]:
    return {sample.class_name for sample in part if sample.split == split}


def test_source_may_have_a_class_named_like_a_split(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "test")):
        images = {f"{name}/{split}.png": png(2 * number + n) for n, name in enumerate(("train", "whale"))}
        (tmp_path / f"{split}-0.tar").write_bytes(shard(images.items()))
    found = [(sample.split, sample.class_name) for sample in read_source(tmp_path)]
    assert found == [("train", "train"), ("train", "whale"), ("test", "train"), ("test", "whale")]


def test_staging_by_classes_puts_each_class_in_one_part(samples: tuple[Sample, ...]) -> None:
    first, second = split_into_parts(samples, Staging.parse("classes", "7+3"))
    assert (len(first), len(second)) == (7 * 30, 3 * 30)
    assert len(classes(first, "train")) == 7
    assert classes(first, "train") == classes(first, "test")
    assert classes(second, "train") == classes(second, "test") == {f"c{n}" for n in range(10)} - classes(first, "train")


def test_staging_by_share_divides_each_split_exactly(samples: tuple[Sample, ...]) -> None:
    divided = split_into_parts(samples, Staging.parse("share", "50+30+20"))
    assert [sum(sample.split == "train" for sample in part) for part in divided] == [100, 60, 40]
    assert [sum(sample.split == "test" for sample in part) for part in divided] == [50, 30, 20]
    assert sorted(sample.sort_key for part in divided for sample in part) == [sample.sort_key for sample in samples]


@pytest.mark.parametrize("staging", [Staging("classes", (7, 3)), Staging("share", (70, 30))])
def test_staging_depends_only_on_the_seed(samples: tuple[Sample, ...], staging: Staging) -> None:
    assert split_into_parts(samples, staging) == split_into_parts(samples, staging)
    assert split_into_parts(samples, staging) != split_into_parts(samples, Staging(staging.by, staging.sizes, seed=1))


def test_parts_have_the_order_of_the_source(samples: tuple[Sample, ...]) -> None:
    for part in split_into_parts(samples, Staging("share", (50, 50))):
        assert [sample.sort_key for sample in part] == sorted(sample.sort_key for sample in part)


def test_staging_draw_is_stable_across_versions(samples: tuple[Sample, ...]) -> None:
    _, second = split_into_parts(samples, Staging("classes", (7, 3)))
    assert classes(second, "train") == {"c3", "c6", "c7"}


@pytest.mark.parametrize("text", ["", "70+", "70+x", "70 + 30", "0+100", "-10+110", "7.5+2.5", "²+3"])
def test_staging_shares_that_are_not_numbers_are_refused(text: str) -> None:
    with pytest.raises(DropError, match="is not a sum of positive whole numbers such as 70"):
        Staging.parse("classes", text)


def test_staging_sizes_must_add_up(samples: tuple[Sample, ...]) -> None:
    with pytest.raises(DropError, match=r"classes: 70\+30 adds up to 100; it must add up to 10, the number of classes"):
        split_into_parts(samples, Staging.parse("classes", "70+30"))
    with pytest.raises(DropError, match=r"share: 7\+3 adds up to 10; it must add up to 100, because"):
        split_into_parts(samples, Staging.parse("share", "7+3"))


def test_shares_of_a_tiny_source_are_still_divided(tmp_path: Path) -> None:
    divided = split_into_parts(
        read_source(folder(tmp_path, "a/1.png", "a/2.png", "a/3.png")), Staging("share", (50, 50))
    )
    assert [len(part) for part in divided] == [1, 2]
